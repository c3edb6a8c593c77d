//! A small history that is as it should be, and what must not be, put into it one at a time.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn write(second: i64, kind: &str, name: &str, before: Option<Value>, after: Option<Value>) -> Write {
    let object = ("shop".to_owned(), name.to_owned());
    let (before, after) = (before.map(Arc::new), after.map(Arc::new));
    Write { at: at(second), ours: true, account: None, kind: kind.into(), object, before, after }
}

fn record(second: i64, topic: &str, id: &str, data: Value) -> Record {
    Record { topic: topic.into(), at: at(second), id: Some(id.into()), data }
}

fn target(version: u32, replicas: u32, ring: &str) -> Value {
    json!({
        "metadata": {"uid": "u", "resourceVersion": version.to_string(), "creationTimestamp": at(0).to_string(),
                     "annotations": {"eventpulse.io/applied-actions": ring}},
        "spec": {"replicas": replicas},
    })
}

fn action(phase: &str, reason: &str) -> Value {
    json!({
        "spec": {"decidedAt": at(10).to_string(), "deadline": at(310).to_string(),
                 "plan": {"uid": "u", "resourceVersion": "7", "plannedAt": at(11).to_string()}},
        "status": {"phase": phase, "reason": reason},
    })
}

fn incident(phase: &str) -> Value {
    json!({
        "spec": {"correlationID": "c", "openedAt": at(10).to_string(), "ruleRef": {"name": "cpu-high"}},
        "status": {"phase": phase, "resolvedAt": at(20).to_string(), "alerts": [{"alertID": "alert"}],
                   "actions": [{"actionRef": {"name": "act"}, "state": "Completed"}]},
    })
}

fn notification(template: &str) -> Value {
    json!({"spec": {"incident": {"incidentID": "inc"}, "channelRef": {"name": "ops"}, "template": template,
                    "occurrence": "Opened", "phase": "Delivered"}})
}

fn message(second: i64, key: &str, marked: bool) -> Message {
    let of = ("inc".into(), "ops".into(), "IncidentOpened".into(), "Opened".into());
    Message { at: at(second), key: key.into(), marked, taken: true, of }
}

/// One alert opens an incident, whose action scales the target, which people are told of.
fn good() -> Observed {
    let accepted = Accepted {
        source: "am".into(),
        fingerprint: "f".into(),
        starts_at: at(9),
        status: "firing".into(),
        name: "CPUHigh".into(),
    };
    let raised = json!({"source": "am", "fingerprint": "f", "startsAt": at(9).to_string(), "status": "firing"});
    let mut decided = raised.clone();
    decided["rule"] = json!({"namespace": "shop", "name": "cpu-high"});
    decided["reason"] = json!("opened");
    decided["incidentID"] = json!("inc");
    let opened = json!({"incident": {"incidentID": "inc", "rule": decided["rule"], "alerts": [{"alertID": "alert"}]}});
    let requested = json!({"incident": {"incidentID": "inc"}, "actionID": "act", "step": "scale"});
    let told = json!({"incident": {"incidentID": "inc"}, "notificationID": "ntf", "channel": "ops", "template": "IncidentOpened",
                      "occurrence": "Opened"});
    let effect = Write {
        account: Some("remediator".into()),
        ..write(12, "deployments", "svc", Some(target(7, 3, "0")), Some(target(8, 4, "1 act:900")))
    };
    let wants =
        |template: &str, event: &str| Told { channel: "ops".into(), template: template.into(), event: event.into() };
    let messages = vec![wants("IncidentOpened", "Opened"), wants("IncidentFailed", "Failed")];
    let broken = STANDARD.encode(json!({"labels": 7, "annotations": {BROKEN: "no 1"}}).to_string());
    Observed {
        accepted: vec![accepted],
        broken: vec!["no 1".into()],
        writes: vec![
            write(10, "incidents", "inc", None, Some(incident("Open"))),
            write(11, "actions", "act", None, Some(action("Running", ""))),
            effect,
            write(13, "actions", "act", Some(action("Running", "")), Some(action("Completed", ""))),
            write(14, "notifications", "ntf", None, Some(notification("IncidentOpened"))),
            write(20, "incidents", "inc", Some(incident("Open")), Some(incident("Resolved"))),
        ],
        records: vec![
            record(9, "alert.raised", "e1", raised),
            record(10, "alert.decided", "e2", decided),
            record(10, "incident.opened", "e3", opened),
            record(10, "action.requested", "e4", requested),
            record(10, "notification.requested", "e6", told),
            record(15, "notification.delivered", "e7", json!({"notificationID": "ntf"})),
            record(13, "action.completed", "e5", json!({"actionID": "act", "incident": {"incidentID": "inc"}})),
            record(10, "dead.letter", "e8", json!({"reason": "InvalidAlert", "data": broken})),
        ],
        messages: vec![message(15, "ntf", false)],
        repeated_at: Some(at(100)),
        rules_of: Some([("CPUHigh".to_owned(), vec!["shop/cpu-high".to_owned()])].into()),
        asks_of: [("shop/cpu-high".to_owned(), Asks { step: Some("scale".into()), messages, cooldown: true })].into(),
        possible: Possible { deaf_s: 120, ..Possible::default() },
        clocks_agree: true,
        at_rest: true,
    }
}

/// What is found when this is done to the good history.
fn found(change: impl FnOnce(&mut Observed)) -> Vec<String> {
    let mut observed = good();
    change(&mut observed);
    judge(&observed).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn must_find(text: &str, change: impl FnOnce(&mut Observed)) {
    let found = found(change);
    assert!(found.iter().any(|violation| violation.contains(text)), "{text:?} is not in {found:#?}");
}

#[test]
fn what_is_as_it_should_be_is_no_violation() {
    assert_eq!(found(|_| {}), Vec::<String>::new());
    // A second copy that says so is none either, nor is a copy that was refused.
    assert_eq!(found(|observed| observed.messages.push(message(16, "ntf", true))), Vec::<String>::new());
    let refused = Message { taken: false, ..message(16, "ntf", false) };
    assert_eq!(found(|observed| observed.messages.push(refused)), Vec::<String>::new());
}

#[test]
fn an_alert_that_is_lost_or_has_no_reason_is_found() {
    must_find("is not on alert.raised", |observed| drop(observed.records.remove(0)));
    must_find("has no reason", |observed| drop(observed.records.remove(1)));
    must_find("its rules are", |observed| observed.rules_of = Some(BTreeMap::new()));
    must_find("as matched by none", |observed| {
        let unmatched = observed.records[0].data.clone();
        observed.records.push(record(11, "alert.decided", "e9", unmatched));
    });
}

#[test]
fn what_is_no_alert_and_became_no_dead_letter_is_found() {
    must_find("no 1, was answered with 2xx", |observed| {
        observed.records.retain(|record| record.topic != "dead.letter")
    });
    must_find("no 2, was answered with 2xx", |observed| observed.broken.push("no 2".into()));
}

/// One more decision of the alert, for its rule.
fn decide_again(observed: &mut Observed, reason: &str, incident: &str) {
    let mut data = observed.records[1].data.clone();
    (data["reason"], data["incidentID"]) = (json!(reason), json!(incident));
    observed.records.push(record(11, "alert.decided", "e2", data));
}

#[test]
fn a_reason_that_is_none_is_found() {
    must_find("which is no reason", |observed| observed.records[1].data["reason"] = json!("perhaps"));
    must_find("which is no reason", |observed| observed.records[1].data["reason"] = json!(null));
}

#[test]
fn a_decision_that_contradicts_the_first_one_is_found() {
    must_find("and then as (\"opened\", \"inc-2\")", |observed| decide_again(observed, "opened", "inc-2"));
    must_find("and then as (\"resolved\", \"inc\")", |observed| decide_again(observed, "resolved", "inc"));
    // What comes again says the same or that it is known; what a cooldown left open may begin later; what is told anew may begin anew;
    // and where the group was deleted nobody knows.
    for (reason, incident) in [("opened", "inc"), ("repeated", "inc"), ("stale", "")] {
        let again = |observed: &mut Observed| {
            observed.possible.alerts.push("stale");
            decide_again(observed, reason, incident);
        };
        assert_eq!(found(again), Vec::<String>::new());
    }
    let left_open = |observed: &mut Observed| {
        decide_again(observed, "opened", "inc");
        observed.records[1].data["reason"] = json!("cooldown");
    };
    must_find("and then as (\"opened\", \"inc-2\")", |observed| {
        left_open(observed);
        decide_again(observed, "opened", "inc-2");
    });
    assert_eq!(found(left_open), Vec::<String>::new());
    let told_anew = |observed: &mut Observed| {
        decide_again(observed, "joined", "inc");
        let mut raised = observed.records[0].clone();
        raised.data["acceptedAt"] = json!(at(30).to_string());
        observed.records.push(raised);
    };
    assert_eq!(found(told_anew), Vec::<String>::new());
    let forgotten = |observed: &mut Observed| {
        decide_again(observed, "joined", "inc");
        let group = json!({"spec": {"ruleRef": {"name": "cpu-high"}}});
        observed.writes.push(Write { ours: false, ..write(12, "alertgroups", "c", Some(group), None) });
    };
    assert_eq!(found(forgotten), Vec::<String>::new());
}

#[test]
fn an_incident_that_an_alert_opened_and_that_is_nowhere_is_found() {
    must_find("names no incident", |observed| observed.records[1].data["incidentID"] = json!(null));
    must_find("no incident.opened told of it", |observed| drop(observed.records.remove(2)));
    must_find("an alert joined other, and there was never such an Incident", |observed| {
        observed.records[1].data["reason"] = json!("joined");
        observed.records[1].data["incidentID"] = json!("other");
    });
    // One that somebody deleted since was there.
    let deleted = |observed: &mut Observed| {
        observed.writes.push(Write { ours: false, ..write(30, "incidents", "inc", Some(incident("Resolved")), None) });
    };
    assert_eq!(found(deleted), Vec::<String>::new());
}

#[test]
fn what_an_incident_never_asks_for_is_found() {
    must_find("its step scale was never asked for", |observed| drop(observed.records.remove(3)));
    must_find("its step scale was never asked for", |observed| observed.records[3].data["step"] = json!("restart"));
    must_find("the message IncidentOpened to ops was never asked for", |observed| drop(observed.records.remove(4)));
    must_find("the message IncidentOpened to ops was never asked for", |observed| {
        observed.records[4].data["occurrence"] = json!("Resolved");
    });
    // A storm asks for no step; of a rule that is not known nothing is.
    let storm = |observed: &mut Observed| {
        observed.records[2].data["incident"]["alerts"] = json!([]);
        observed.records.remove(3);
    };
    assert_eq!(found(storm), Vec::<String>::new());
    let unknown = |observed: &mut Observed| {
        observed.asks_of.clear();
        observed.records.remove(3);
    };
    assert_eq!(found(unknown), Vec::<String>::new());
}

#[test]
fn an_action_done_twice_or_against_what_it_says_is_found() {
    must_find("took effect 2 times", |observed| {
        let again = Write {
            account: Some("remediator".into()),
            ..write(13, "deployments", "svc", Some(target(7, 4, "0")), Some(target(9, 5, "1 act:900")))
        };
        observed.writes.insert(3, again);
    });
    must_find("no action is recorded", |observed| {
        observed.writes[2].after = Some(Arc::new(target(8, 4, "0")));
    });
    must_find("there was never an Action", |observed| observed.writes.retain(|write| write.kind != "actions"));
    must_find("a plan that it had not recorded", |observed| {
        observed.writes[2].before = Some(Arc::new(target(99, 3, "0")));
    });
    must_find("is Failed (Refused) and took effect", |observed| {
        observed.writes[3].after = Some(Arc::new(action("Failed", "Refused")));
    });
    must_find("is Completed and took no effect", |observed| drop(observed.writes.remove(2)));
    must_find("had ended", |observed| {
        observed.writes.push(write(14, "actions", "act", None, Some(action("Failed", "Refused"))));
    });
    must_find("after it had ended", |observed| observed.writes.swap(2, 3));
    must_find("created after the decision", |observed| {
        let mut before = target(7, 3, "0");
        before["metadata"]["creationTimestamp"] = json!(at(11).to_string());
        observed.writes[2].before = Some(Arc::new(before));
    });
}

#[test]
fn a_second_incident_of_an_episode_is_found() {
    must_find("while inc was open", |observed| {
        let mut other = incident("Resolved");
        other["spec"]["openedAt"] = json!(at(15).to_string());
        observed.writes.push(write(15, "incidents", "inc-2", None, Some(other)));
    });
    must_find("have the same alerts", |observed| {
        let mut other = incident("Resolved");
        other["spec"]["openedAt"] = json!(at(30).to_string());
        observed.writes.push(write(30, "incidents", "inc-2", None, Some(other)));
    });
    must_find("back to Open", |observed| {
        observed.writes.push(write(21, "incidents", "inc", Some(incident("Resolved")), Some(incident("Open"))));
    });
    must_find("there was never such an Incident", |observed| observed.writes.retain(|write| write.kind != "incidents"));
}

#[test]
fn what_somebody_took_the_memory_of_may_join_another_incident() {
    let joined = |deleted: Option<&str>| {
        found(|observed| {
            let mut other = incident("Resolved");
            other["spec"]["openedAt"] = json!(at(30).to_string());
            observed.writes.push(write(30, "incidents", "inc-2", None, Some(other)));
            if let Some(group) = deleted {
                observed.writes.push(Write { ours: false, ..write(29, "alertgroups", group, Some(json!({})), None) });
            }
        })
    };
    let same = |found: Vec<String>| found.iter().any(|finding| finding.contains("have the same alerts"));
    assert!(same(joined(None)) && same(joined(Some("another"))) && !same(joined(Some("c"))));
}

#[test]
fn a_message_told_twice_without_a_mark_is_found() {
    must_find("without a mark", |observed| observed.messages.push(message(16, "ntf", false)));
    must_find("under two keys", |observed| observed.messages.push(message(16, "other", true)));
    must_find("are one notification", |observed| {
        observed.writes.push(write(15, "notifications", "ntf-2", None, Some(notification("IncidentOpened"))));
    });
    must_find("nobody has it", |observed| observed.messages.clear());
}

#[test]
fn something_that_comes_of_a_repetition_is_found() {
    must_find("was created", |observed| {
        observed.writes.push(write(101, "actions", "act-2", None, Some(action("Completed", ""))));
    });
    must_find("was sent", |observed| observed.messages.push(message(101, "ntf", true)));
    must_find("the event new came", |observed| observed.records.push(record(101, "action.failed", "new", json!({}))));
    assert_eq!(
        found(|observed| observed.records.push(record(
            101,
            "incident.opened",
            "e3",
            json!({"incident": {"incidentID": "inc"}})
        ))),
        Vec::<String>::new()
    );
}

#[test]
fn what_does_not_come_to_rest_is_found() {
    must_find("is \"Open\"", |observed| drop(observed.writes.pop()));
    must_find("nobody was told", |observed| observed.records.retain(|record| record.topic != "action.completed"));
    must_find("nothing ever came of it", |observed| {
        observed.records.push(record(11, "action.requested", "e9", json!({"actionID": "other"})));
    });
    must_find("events to tell", |observed| {
        observed.writes.push(write(21, "alertgroups", "c", None, Some(json!({"spec": {"outbox": [{"id": "x"}]}}))));
    });
}

/// An Action that ended so, of which was told.
fn ends(observed: &mut Observed, phase: &str, reason: &str) {
    observed.writes.remove(2);
    observed.writes[2].after = Some(Arc::new(action(phase, reason)));
    let mut resolved = observed.records[0].clone();
    (resolved.topic, resolved.data) = ("incident.resolved".into(), json!({"incident": {"incidentID": "inc"}}));
    observed.records.push(resolved);
    for record in observed.records.iter_mut().filter(|record| record.topic == "action.completed") {
        record.topic = "action.failed".into();
    }
    for write in &mut observed.writes {
        if let Some(incident) = write.after.as_mut().filter(|_| write.kind == "incidents") {
            Arc::make_mut(incident)["status"]["actions"][0]["state"] = json!("Failed");
        }
    }
}

#[test]
fn what_is_not_done_without_a_cause_is_found() {
    let nothing = "nothing led to it";
    for reason in ["stale", "storm", "invalid", "refused", "suspended"] {
        must_find(nothing, |observed| observed.records[1].data["reason"] = json!(reason));
    }
    let held = |observed: &mut Observed, cooldown| {
        observed.records[1].data["reason"] = json!("cooldown");
        observed.asks_of.values_mut().for_each(|asks| asks.cooldown = cooldown);
    };
    must_find(nothing, |observed| held(observed, false));
    assert_eq!(found(|observed| held(observed, true)), Vec::<String>::new());
    for (phase, reason) in [
        ("Failed", "Refused"),
        ("Failed", "RetriesExhausted"),
        ("Failed", "DeadlineExceeded"),
        ("Failed", "TargetNotFound"),
        ("Failed", "Forbidden"),
        ("Skipped", "Stale"),
        ("Skipped", "Suspended"),
    ] {
        must_find(nothing, |observed| ends(observed, phase, reason));
    }
    let refused = |observed: &mut Observed| {
        ends(observed, "Failed", "Refused");
        observed.possible.actions.push("Refused");
    };
    assert_eq!(found(refused), Vec::<String>::new());
    let removed = |observed: &mut Observed| {
        ends(observed, "Failed", "TargetNotFound");
        observed.writes.push(write(11, "deployments", "", Some(target(7, 3, "0")), None));
    };
    assert_eq!(found(removed), Vec::<String>::new());
    let resolved = |observed: &mut Observed| ends(observed, "Skipped", "IncidentResolved");
    must_find(nothing, resolved);
}

#[test]
fn a_message_that_fails_before_its_deadline_is_found() {
    let fails = |ended: i64| {
        move |observed: &mut Observed| {
            let mut failed = notification("IncidentOpened");
            failed["spec"]["phase"] = json!("Failed");
            failed["spec"]["deadline"] = json!(at(100).to_string());
            failed["spec"]["finishedAt"] = json!(at(ended).to_string());
            observed.writes[4].after = Some(Arc::new(failed));
            let told = observed.records.iter_mut().find(|record| record.topic == "notification.delivered");
            told.unwrap().topic = "notification.failed".into();
        }
    };
    must_find("nothing led to it", fails(50));
    assert_eq!(found(fails(100)), Vec::<String>::new());
}

#[test]
fn what_ended_and_was_not_told_is_found() {
    must_find("the message ntf is Delivered, and nobody was told", |observed| {
        observed.records.retain(|record| record.topic != "notification.delivered");
    });
    must_find("is Resolved, and no event led to it", |observed| {
        let told = observed.records.iter_mut().find(|record| record.topic == "action.completed");
        told.unwrap().data["incident"] = json!({"incidentID": "other"});
    });
    // The alert ended before the rules had heard of it.
    let failed_meanwhile = |observed: &mut Observed| {
        observed.writes.insert(5, write(19, "incidents", "inc", Some(incident("Open")), Some(incident("Failed"))));
    };
    assert_eq!(found(failed_meanwhile), Vec::<String>::new());
    must_find("inc is Failed, and the message IncidentFailed to ops was never asked for", |observed| {
        failed_meanwhile(observed);
        observed.writes.last_mut().unwrap().at = at(19 + 121);
    });
    let failed = |observed: &mut Observed| {
        failed_meanwhile(observed);
        let group = json!({"spec": {"episode": {"incidentID": "inc", "phase": "Failed"}}});
        observed.writes.insert(5, write(19, "alertgroups", "c", None, Some(group)));
    };
    must_find("inc is Failed, and the message IncidentFailed to ops was never asked for", failed);
    let suspended = |observed: &mut Observed| {
        failed(observed);
        let rule = json!({"spec": {"suspend": true}});
        observed.writes.insert(0, write(1, "rules", "cpu-high", None, Some(rule)));
    };
    assert_eq!(found(suspended), Vec::<String>::new());
}

#[test]
fn what_grows_beyond_its_bound_is_found() {
    must_find("bytes", |observed| {
        let mut large = incident("Resolved");
        large["status"]["text"] = json!("x".repeat(40_000));
        observed.writes.push(write(21, "incidents", "inc", None, Some(large)));
    });
    must_find("in /spec/outbox", |observed| {
        let entries = json!(vec![json!({"id": "x"}); 33]);
        let full = json!({"spec": {"outbox": entries}});
        observed.writes.push(write(21, "alertgroups", "c", None, Some(full)));
        observed.writes.push(write(22, "alertgroups", "c", None, Some(json!({}))));
    });
    must_find("in /status/history", |observed| {
        let mut long = incident("Resolved");
        long["status"]["history"] = json!(vec![0; 33]);
        observed.writes.push(write(21, "incidents", "inc", None, Some(long)));
    });
}
