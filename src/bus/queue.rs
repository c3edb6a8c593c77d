//! What lies between an adapter and the service that consumes: deliveries in order, assignments, acknowledgements, backpressure.
//!
//! In, from the adapter: assignments and records. In, from the service: pause, resume, acknowledgements. Out: events for the
//! service; for the adapter, how much room there is and which offsets may be stored. Nothing here waits for the log.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::{AckTracker, Delivery, SubscriptionEvent, TopicPartition};
use crate::events::Record;

/// What may wait in one member's queue, in bytes of records; a last record may go beyond it (promise 6).
const QUEUE_BYTES: usize = 32 << 20;

/// One membership's queue, shared by adapter and subscription.
pub struct DeliveryQueue {
    state: Mutex<State>,
    max_in_flight: usize,
    /// Wakes the service.
    ready: Notify,
    /// Wakes the adapter: something was acknowledged or taken, or the service has gone.
    adapter: Arc<Notify>,
}

#[derive(Default)]
struct State {
    events: VecDeque<Queued>,
    assigned: BTreeMap<TopicPartition, Assignment>,
    bytes: usize,
    joined: bool,
    paused: bool,
    closed: bool,
    abandoned: bool,
}

struct Assignment {
    tracker: Arc<AckTracker>,
    queued: usize,
    /// The last offset that [`DeliveryQueue::take_storable`] gave.
    taken: Option<u64>,
}

enum Queued {
    Assigned(Vec<TopicPartition>),
    Revoked(Vec<TopicPartition>),
    Message { at: TopicPartition, offset: u64, timestamp: Timestamp, record: Record },
}

impl DeliveryQueue {
    /// `adapter` is notified when the adapter should look again.
    pub fn new(max_in_flight: usize, adapter: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), max_in_flight: max_in_flight.max(1), ready: Notify::new(), adapter })
    }

    /// These partitions are the member's now. One that it has already begins anew, with a tracker of its own.
    /// That there are none for it is told once, to a member that has had none yet: it has joined its group.
    pub fn assign(&self, partitions: &[TopicPartition]) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.joined, true) && partitions.is_empty() {
            return;
        }
        for at in partitions {
            state.forget(*at);
            let tracker = AckTracker::new(Arc::clone(&self.adapter));
            state.assigned.insert(*at, Assignment { tracker, queued: 0, taken: None });
        }
        state.events.push_back(Queued::Assigned(partitions.to_vec()));
        drop(state);
        self.ready.notify_one();
    }

    /// These are no longer: what waits of them is forgotten, and what is acknowledged from now on counts for nothing.
    /// Gives the offsets that may still be stored.
    pub fn revoke(&self, partitions: &[TopicPartition]) -> Vec<(TopicPartition, u64)> {
        let mut state = self.lock();
        let mut storable = Vec::new();
        let mut gone = Vec::new();
        for at in partitions {
            let Some(last) = state.forget(*at) else { continue };
            gone.push(*at);
            storable.extend(last.map(|offset| (*at, offset)));
        }
        if !gone.is_empty() {
            state.events.push_back(Queued::Revoked(gone));
        }
        drop(state);
        self.ready.notify_one();
        storable
    }

    /// Every partition that is assigned now.
    pub fn assigned(&self) -> Vec<TopicPartition> {
        self.lock().assigned.keys().copied().collect()
    }

    /// How many more records of this partition may be handed over (promise 6). None for a partition that is not assigned.
    pub fn room(&self, at: TopicPartition) -> usize {
        let state = self.lock();
        match state.assigned.get(&at) {
            Some(assignment) if state.bytes < QUEUE_BYTES => {
                self.max_in_flight.saturating_sub(assignment.queued + assignment.tracker.in_flight())
            }
            _ => 0,
        }
    }

    /// Records of this partition that were handed over and are not acknowledged, those that wait included.
    pub fn outstanding(&self, at: TopicPartition) -> usize {
        let state = self.lock();
        state.assigned.get(&at).map_or(0, |assignment| assignment.queued + assignment.tracker.in_flight())
    }

    /// The first record of this partition that was handed over and is not acknowledged, one that waits included.
    pub fn first_unfinished(&self, at: TopicPartition) -> Option<u64> {
        let state = self.lock();
        let open = state.assigned.get(&at).and_then(|assignment| assignment.tracker.first_open());
        let waiting = state.events.iter().find_map(|event| match event {
            Queued::Message { at: of, offset, .. } if *of == at => Some(*offset),
            _ => None,
        });
        // What waits came later.
        open.or(waiting)
    }

    /// Hands a record over. False, and it is forgotten, when its partition is not assigned.
    pub fn push(&self, at: TopicPartition, offset: u64, timestamp: Timestamp, record: Record) -> bool {
        let mut state = self.lock();
        let Some(assignment) = state.assigned.get_mut(&at) else { return false };
        assignment.queued += 1;
        state.bytes += size_of(&record);
        state.events.push_back(Queued::Message { at, offset, timestamp, record });
        drop(state);
        self.ready.notify_one();
        true
    }

    /// The offsets that have become storable since the last call.
    pub fn take_storable(&self) -> Vec<(TopicPartition, u64)> {
        let mut state = self.lock();
        let mut changed = Vec::new();
        for (at, assignment) in &mut state.assigned {
            let storable = assignment.tracker.storable();
            if storable != assignment.taken {
                assignment.taken = storable;
                changed.extend(storable.map(|offset| (*at, offset)));
            }
        }
        changed
    }

    /// The membership has ended: the service gets no further event.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let partitions: Vec<TopicPartition> = state.assigned.keys().copied().collect();
        for at in partitions {
            state.forget(at);
        }
        drop(state);
        self.ready.notify_one();
    }

    /// Whether the service dropped its subscription.
    pub fn is_abandoned(&self) -> bool {
        self.lock().abandoned
    }

    pub(super) fn abandon(&self) {
        self.lock().abandoned = true;
        self.adapter.notify_one();
    }

    pub(super) fn set_paused(&self, paused: bool) {
        let before = std::mem::replace(&mut self.lock().paused, paused);
        if before && !paused {
            self.ready.notify_one();
        }
    }

    /// Deliveries that the service has and has not acknowledged. What waits in the queue is none of them.
    pub(super) fn in_flight(&self) -> usize {
        self.lock().assigned.values().map(|assignment| assignment.tracker.in_flight()).sum()
    }

    /// Deliveries that the service still works on: what it dropped comes again, and is not waited for.
    pub(super) fn held(&self) -> usize {
        self.lock().assigned.values().map(|assignment| assignment.tracker.held()).sum()
    }

    /// The next event for the service; none when the membership has ended. Nothing is lost when the future is dropped.
    pub(super) async fn next(&self) -> Option<SubscriptionEvent> {
        loop {
            {
                let mut state = self.lock();
                if state.closed {
                    return None;
                }
                if let Some(event) = state.take() {
                    drop(state);
                    self.adapter.notify_one();
                    return Some(event);
                }
            }
            self.ready.notified().await;
        }
    }

    /// No panic happens while the lock is held, so a poisoned one holds a whole state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// None when the partition is not assigned; else its last storable offset, where there is one.
    fn forget(&mut self, at: TopicPartition) -> Option<Option<u64>> {
        let assignment = self.assigned.remove(&at)?;
        let bytes = &mut self.bytes;
        self.events.retain(|event| match event {
            Queued::Message { at: of, record, .. } if *of == at => {
                *bytes -= size_of(record);
                false
            }
            _ => true,
        });
        Some(assignment.tracker.close())
    }

    fn take(&mut self) -> Option<SubscriptionEvent> {
        let paused = self.paused;
        let next = self.events.iter().position(|event| !paused || !matches!(event, Queued::Message { .. }))?;
        match self.events.remove(next)? {
            Queued::Assigned(partitions) => Some(SubscriptionEvent::Assigned(partitions)),
            Queued::Revoked(partitions) => Some(SubscriptionEvent::Revoked(partitions)),
            Queued::Message { at, offset, timestamp, record } => {
                self.bytes -= size_of(&record);
                let assignment = self.assigned.get_mut(&at)?;
                assignment.queued -= 1;
                let ack = assignment.tracker.deliver(offset);
                Some(SubscriptionEvent::Message(Delivery { record, at, offset, timestamp, ack }))
            }
        }
    }
}

/// What a record takes in memory, about.
pub(super) fn size_of(record: &Record) -> usize {
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    record.value.len() + record.key.as_ref().map_or(0, String::len) + headers + 64
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt;

    use super::*;
    use crate::events::Topic;

    const A: TopicPartition = TopicPartition { topic: Topic::AlertRaised, partition: 0 };
    const B: TopicPartition = TopicPartition { topic: Topic::AlertRaised, partition: 1 };

    fn queue(max_in_flight: usize) -> Arc<DeliveryQueue> {
        DeliveryQueue::new(max_in_flight, Arc::new(Notify::new()))
    }

    fn push(queue: &DeliveryQueue, at: TopicPartition, offset: u64) -> bool {
        let record = Record { topic: at.topic, key: None, headers: Vec::new(), value: Bytes::from_static(b"{}") };
        queue.push(at, offset, Timestamp::UNIX_EPOCH, record)
    }

    fn next(queue: &DeliveryQueue) -> Option<SubscriptionEvent> {
        queue.next().now_or_never().flatten()
    }

    fn next_message(queue: &DeliveryQueue) -> Option<Delivery> {
        match next(queue)? {
            SubscriptionEvent::Message(delivery) => Some(delivery),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn room_counts_what_waits_and_what_is_not_acknowledged() {
        let queue = queue(2);
        assert_eq!(queue.room(A), 0);
        queue.assign(&[A]);
        assert!(matches!(next(&queue), Some(SubscriptionEvent::Assigned(_))));
        push(&queue, A, 0);
        push(&queue, A, 1);
        assert_eq!((queue.room(A), queue.in_flight()), (0, 0));
        let (first, second) = (next_message(&queue).unwrap(), next_message(&queue).unwrap());
        assert_eq!((queue.room(A), queue.in_flight()), (0, 2));
        second.ack.done();
        assert_eq!((queue.room(A), queue.take_storable()), (1, vec![]));
        push(&queue, A, 2);
        assert_eq!((queue.first_unfinished(A), queue.first_unfinished(B)), (Some(0), None));
        first.ack.done();
        assert_eq!(queue.first_unfinished(A), Some(2), "it waits");
        next_message(&queue).unwrap().ack.done();
        assert_eq!(queue.first_unfinished(A), None);
        assert_eq!((queue.room(A), queue.take_storable()), (2, vec![(A, 3)]));
        assert_eq!(queue.take_storable(), vec![]);
    }

    #[test]
    fn a_revoked_partition_is_forgotten_and_the_others_are_not() {
        let queue = queue(10);
        queue.assign(&[A, B]);
        next(&queue);
        for offset in 0..3 {
            push(&queue, A, offset);
            push(&queue, B, offset);
        }
        let first = next_message(&queue).unwrap();
        assert_eq!(first.at, A);
        first.ack.done();
        let late = next_message(&queue).unwrap();
        assert_eq!(queue.revoke(&[A, A]), vec![(A, 1)]);
        assert!(!push(&queue, A, 3));
        late.ack.done();
        let mut offsets = Vec::new();
        loop {
            match next(&queue) {
                Some(SubscriptionEvent::Message(delivery)) => {
                    assert_eq!(delivery.at, B);
                    offsets.push(delivery.offset);
                }
                Some(SubscriptionEvent::Revoked(gone)) => assert_eq!(gone, [A]),
                Some(other) => panic!("{other:?}"),
                None => break,
            }
        }
        assert_eq!(offsets, [1, 2]);
        assert_eq!(queue.take_storable(), vec![(B, 1)]);
        assert_eq!(queue.lock().bytes, 0);
    }

    #[test]
    fn an_acknowledgement_of_a_lost_assignment_counts_for_nothing_in_the_next_one() {
        let queue = queue(10);
        queue.assign(&[A]);
        next(&queue);
        push(&queue, A, 0);
        let lost = next_message(&queue).unwrap();
        queue.revoke(&[A]);
        queue.assign(&[A]);
        push(&queue, A, 0);
        lost.ack.done();
        assert_eq!(queue.take_storable(), vec![]);
        assert!(matches!(next(&queue), Some(SubscriptionEvent::Revoked(_))));
        assert!(matches!(next(&queue), Some(SubscriptionEvent::Assigned(_))));
        assert_eq!(next_message(&queue).unwrap().offset, 0);
    }

    #[test]
    fn a_paused_service_hears_of_its_assignments_only() {
        let queue = queue(10);
        queue.assign(&[A]);
        push(&queue, A, 0);
        queue.set_paused(true);
        queue.assign(&[B]);
        assert!(matches!(next(&queue), Some(SubscriptionEvent::Assigned(p)) if p == [A]));
        assert!(matches!(next(&queue), Some(SubscriptionEvent::Assigned(p)) if p == [B]));
        assert!(next(&queue).is_none());
        queue.set_paused(false);
        assert_eq!(next_message(&queue).unwrap().offset, 0);
    }

    #[tokio::test]
    async fn a_waiting_service_is_woken_by_a_record_by_resuming_and_by_the_end() {
        let queue = queue(10);
        queue.assign(&[A]);
        next(&queue);
        let waiting = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { (queue.next().await.is_some(), queue.next().await.is_none()) }
        });
        tokio::task::yield_now().await;
        queue.set_paused(true);
        push(&queue, A, 0);
        tokio::task::yield_now().await;
        queue.set_paused(false);
        while queue.in_flight() == 0 {
            tokio::task::yield_now().await;
        }
        queue.close();
        assert_eq!(waiting.await.unwrap(), (true, true));
    }
}
