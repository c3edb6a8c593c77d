//! The broker, and the way to it.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use super::Struck;
use crate::stage::Stage;

const PROBES: usize = 8;
/// What EventPulse asks of its topics.
const SETTINGS: [(&str, &str); 3] =
    [("max.message.bytes", "2162688"), ("retention.ms", "86400000"), ("message.timestamp.type", "LogAppendTime")];
/// Longer than a request takes, and shorter than a client waits.
const UNANSWERED: Duration = Duration::from_millis(500);
/// A person who deletes a topic and makes it anew takes longer. EventPulse asks every 2 s.
const GONE: Duration = Duration::from_secs(3);

pub(super) async fn cut(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    cut_again_and_again(stage, lasts, None).await
}

/// What is produced is on the log, and whoever produced it is not told; what is committed is committed.
pub(super) async fn lost_answers(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    cut_again_and_again(stage, lasts, Some(UNANSWERED)).await
}

/// Every 2 s, after no answer has passed for so long.
async fn cut_again_and_again(stage: &mut Stage, lasts: Duration, unanswered: Option<Duration>) -> Result<Struck> {
    let until = Instant::now() + lasts;
    let mut times = 0;
    while Instant::now() < until {
        sleep(Duration::from_secs(2)).await;
        if let Some(unanswered) = unanswered {
            stage.broker.hold_answers();
            sleep(unanswered).await;
        }
        times += stage.broker.cut();
        stage.broker.pass();
    }
    anyhow::ensure!(times > 0, "no connection was cut");
    let took = stage.probe(PROBES).await?;
    Ok(Struck::times(times).recovered("alert to effect", took))
}

pub(super) async fn silent(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    stage.broker.hold();
    sleep(lasts).await;
    stage.broker.pass();
    let took = stage.probe(PROBES).await?;
    Ok(Struck::times(1).recovered("the broker is back", took))
}

pub(super) async fn away(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    stage.shop.environment.kafka().stop().await;
    sleep(lasts).await;
    stage.shop.environment.kafka_mut().restart().await?;
    let took = stage.probe(PROBES).await?;
    Ok(Struck::times(1).recovered("the broker is back", took))
}

/// Somebody deletes a topic and makes it anew: what groups have stored is beyond its end.
pub(super) async fn topic_again(stage: &mut Stage, _: Duration) -> Result<Struck> {
    let topics = ["action.requested", "alert.raised", "notification.requested"];
    for topic in topics {
        // What was published between the look and the deletion would be known to nobody.
        stage.quiet().await?;
        stage.remember_records(&[topic]).await?;
        let client = stage.shop.environment.kafka().client();
        let partitions = client.partitions(topic).await?;
        client.delete_topic(topic).await?;
        sleep(GONE).await;
        client.create_topic(topic, partitions, &SETTINGS).await?;
        stage.probe(PROBES).await?;
    }
    let took = stage.probe(PROBES).await?;
    Ok(Struck::times(topics.len()).recovered("alert to effect", took))
}
