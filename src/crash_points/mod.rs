//! Points between two effects at which a test has the process kill itself, one at a time (`make chaos`): what was done before it is done, and
//! nothing of what comes after it is.
//!
//! Only with the feature `crash-points`, which no release has: without it nothing of this is left.

/// What a step has one point for each of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Each {
    /// There is one such point.
    Once,
    /// Every kind that a service owns.
    Kind,
    /// Every topic that is written.
    Topic,
    /// Every topic that a service reads.
    Consumed,
}

/// Declares the steps, and what each of them stands between.
macro_rules! points {
    ($($(#[doc = $what:literal])+ $name:ident: $each:ident,)+) => {
        /// A place in the code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $($(#[doc = $what])+ $name,)+
        }

        impl Point {
            /// All of them.
            pub const ALL: &[Point] = &[$(Point::$name,)+];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Point::$name => stringify!($name),)+
                }
            }

            /// What is done and what is not, for people.
            pub fn what(self) -> &'static str {
                match self {
                    $(Point::$name => concat!($($what),+).trim_ascii(),)+
                }
            }

            /// What it is there for each of.
            pub fn each(self) -> Each {
                match self {
                    $(Point::$name => Each::$each,)+
                }
            }
        }
    };
}

points! {
    /// Alerts have come and are not kept yet.
    AlertsTaken: Once,
    /// Alerts are on disk, and their sender has no answer.
    AlertsKept: Once,
    /// Alerts of the outbox are on the log, and still in the outbox.
    AlertsRelayed: Once,
    /// They are out of the outbox.
    AlertsRemoved: Once,
    /// A record was read, and nothing was done about it.
    RecordRead: Consumed,
    /// Everything that follows from a record is done, and its offset is not stored.
    RecordDone: Consumed,
    /// An event is about to be published.
    BeforePublish: Topic,
    /// The log has an event, and nobody has noted that it has.
    Published: Topic,
    /// An object is about to be created.
    BeforeCreate: Kind,
    /// It was created; what it has to say is not said.
    Created: Kind,
    /// An object is about to be written.
    BeforeWrite: Kind,
    /// It was written; what it has to say is not said.
    Written: Kind,
    /// What an object had to say is said, and about to be cleared.
    BeforeClear: Kind,
    /// It was cleared.
    Cleared: Kind,
    /// An object that is let go of is about to be: its finalizer still stands.
    BeforeRelease: Once,
    /// Its finalizer is gone.
    Released: Once,
    /// An object that is old is about to be deleted.
    BeforeDelete: Kind,
    /// It was deleted.
    Deleted: Kind,
    /// A plan stands in the Action, and its patch is about to be sent.
    BeforePatch: Once,
    /// The target is patched, and the Action does not know.
    Patched: Once,
    /// An action is given up, and its fence is about to be sent.
    BeforeFence: Once,
    /// The fence stands, and the Action does not know.
    Fenced: Once,
    /// A message is claimed, and about to be sent.
    BeforeMessage: Once,
    /// The receiver has the message, and the Notification does not know.
    MessageSent: Once,
}

#[cfg(feature = "crash-points")]
pub use chosen::{CLOCK_AHEAD_S, CrashPoint, VARIABLE, choose_from_environment, reached, told};

/// Nothing happens here.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn reached(_: Point, _: &str) {}

/// What the machine's clock says.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn told(time: jiff::Timestamp) -> jiff::Timestamp {
    time
}

#[cfg(feature = "crash-points")]
mod chosen {
    use std::sync::OnceLock;

    use jiff::{SignedDuration, Timestamp};
    use rustix::process::{Signal, getpid, kill_process};

    use super::{Each, Point};
    use crate::events::Topic;

    /// Names the point at which the process kills itself.
    pub const VARIABLE: &str = "EVENTPULSE_TEST_CRASH_POINT";
    /// By how many seconds the process takes its clock to be ahead: for it everything is as old as that, and it does what it does with
    /// what is old.
    pub const CLOCK_AHEAD_S: &str = "EVENTPULSE_TEST_CLOCK_AHEAD_S";
    const KINDS: [&str; 4] = ["AlertGroup", "Action", "Incident", "Notification"];

    static CHOSEN: OnceLock<CrashPoint> = OnceLock::new();
    static AHEAD: OnceLock<SignedDuration> = OnceLock::new();

    /// A step, and what it is about.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CrashPoint {
        point: Point,
        of: &'static str,
    }

    impl CrashPoint {
        /// Every point, step by step.
        pub fn all() -> impl Iterator<Item = Self> {
            Point::ALL.iter().flat_map(|point| {
                let of: Vec<&'static str> = match point.each() {
                    Each::Once => vec![""],
                    Each::Kind => KINDS.to_vec(),
                    Each::Topic => Topic::ALL.iter().map(|topic| topic.name()).collect(),
                    Each::Consumed => {
                        Topic::ALL.iter().filter(|topic| is_read(**topic)).map(|topic| topic.name()).collect()
                    }
                };
                of.into_iter().map(|of| Self { point: *point, of })
            })
        }

        /// `Published/alert.raised`.
        pub fn name(&self) -> String {
            match self.of {
                "" => self.point.name().to_owned(),
                of => format!("{}/{of}", self.point.name()),
            }
        }

        /// What is done and what is not, for people.
        pub fn what(&self) -> &'static str {
            self.point.what()
        }

        /// Whether it is there only where the log is a broker: the embedded log takes alerts, and what is wrong with them, without an
        /// outbox before it.
        pub fn is_of_a_broker(&self) -> bool {
            let of_the_relay = [Topic::AlertRaised, Topic::DeadLetter].map(Topic::name).contains(&self.of);
            of_the_relay && matches!(self.point, Point::BeforePublish | Point::Published)
                || matches!(self.point, Point::AlertsRelayed | Point::AlertsRemoved)
        }

        /// Whether it is only reached by what is old.
        pub fn is_of_the_old(&self) -> bool {
            matches!(self.point, Point::BeforeRelease | Point::Released | Point::BeforeDelete | Point::Deleted)
        }
    }

    /// No service of ours reads the ledger, and what nobody could read.
    fn is_read(topic: Topic) -> bool {
        !matches!(topic, Topic::AlertDecided | Topic::DeadLetter)
    }

    /// What the process takes the time to be.
    pub fn told(time: Timestamp) -> Timestamp {
        AHEAD.get().map_or(time, |ahead| time.saturating_add(*ahead).unwrap_or(time))
    }

    /// Takes the point that [`VARIABLE`] names, and how far the clock is ahead; without them nothing happens anywhere.
    pub fn choose_from_environment() -> Result<(), String> {
        if let Ok(text) = std::env::var(CLOCK_AHEAD_S) {
            let seconds: u32 =
                text.parse().map_err(|_| format!("{CLOCK_AHEAD_S}={text}: it is a number of seconds"))?;
            let ahead = SignedDuration::from_secs(i64::from(seconds));
            AHEAD.set(ahead).map_err(|_| "the clock was set before".to_owned())?;
        }
        let Ok(name) = std::env::var(VARIABLE) else { return Ok(()) };
        let point = CrashPoint::all().find(|point| point.name() == name);
        let point = point.ok_or_else(|| format!("{VARIABLE}={name}: there is no such point"))?;
        CHOSEN.set(point).map_err(|_| "a point was chosen before".to_owned())
    }

    /// SIGKILL, if it is the chosen point.
    pub fn reached(point: Point, of: &str) {
        if let Some(chosen) = CHOSEN.get().filter(|chosen| chosen.point == point && chosen.of == of) {
            eprintln!("eventpulse: killed at {}, on request", chosen.name());
            let _ = kill_process(getpid(), Signal::KILL);
            // The signal is on its way; nothing happens after this line.
            loop {
                std::thread::park();
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use std::collections::BTreeSet;

        use super::*;

        #[test]
        fn every_point_has_a_name_of_its_own() {
            let names: Vec<String> = CrashPoint::all().map(|point| point.name()).collect();
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
            assert!(
                names.contains(&"Written/Incident".to_owned()) && names.contains(&"Patched".to_owned()),
                "{names:?}"
            );
        }
    }
}
