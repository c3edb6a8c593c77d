//! Waiting for what is under way, without a deadline of its own: as long as it goes on it is waited for.

use std::time::Duration;

use tokio::time::{Instant, sleep};

const LOOK: Duration = Duration::from_millis(250);

/// Until nothing is left, or for `patience` it has not become less.
pub(super) async fn until_none_is_left(
    patience: Duration,
    mut left: impl AsyncFnMut() -> anyhow::Result<usize>,
) -> anyhow::Result<()> {
    let (mut least, mut progress) = (usize::MAX, Instant::now());
    loop {
        let left = left().await?;
        if left < least {
            (least, progress) = (left, Instant::now());
        }
        if least == 0 || progress.elapsed() > patience {
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3);

    /// Looks at these one after the other, the last one again and again; gives how long that was done.
    async fn waits_for(seen: &[usize]) -> Duration {
        let (began, mut looks) = (Instant::now(), 0);
        let left = async || {
            looks += 1;
            Ok(seen[(looks - 1).min(seen.len() - 1)])
        };
        until_none_is_left(PATIENCE, left).await.unwrap();
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_until_nothing_is_left_or_nothing_goes_on() {
        assert_eq!(waits_for(&[0]).await, Duration::ZERO);
        assert_eq!(waits_for(&[2, 1, 0]).await, LOOK * 2);
        assert_eq!(waits_for(&[5, 4]).await, LOOK + PATIENCE + LOOK);
        // What becomes more is no progress.
        assert_eq!(waits_for(&[5, 9, 5]).await, PATIENCE + LOOK);
        assert!(until_none_is_left(PATIENCE, async || anyhow::bail!("it has ended")).await.is_err());
    }
}
