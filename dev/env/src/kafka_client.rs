//! Kafka's own command line tools: a client that shares no line with ours, so that what it writes is foreign and what it reads is true.
//!
//! In: a broker's address. Out: records as the console producer and consumer write and print them. Each call is a JVM of its own and
//! takes a second or two.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    error::{Error, Result},
    process::{clean, last_lines},
};

/// The largest record that the console producer sends; its own default is 1 MiB.
const REQUEST_BYTES: usize = 8 << 20;
const TIMEOUT: Duration = Duration::from_secs(60);
/// Between key and value, and between headers: characters that no record here holds.
const FIELD: &str = "\u{2}";
const HEADER: &str = "\u{1}";

/// A record of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlainRecord {
    /// When it was produced, in milliseconds since 1970; ignored when producing.
    pub timestamp_ms: i64,
    /// Names and values, in order.
    pub headers: Vec<(String, String)>,
    /// The key.
    pub key: String,
    /// The value. No line break: the console producer takes a line for a record.
    pub value: String,
}

impl PlainRecord {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The same with another value of this header, or with one more header.
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(header, _)| header != name);
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// As the console producer reads it.
    fn line(&self) -> String {
        let headers: Vec<String> = self.headers.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        format!("{}{FIELD}{}{FIELD}{}\n", headers.join(HEADER), self.key, self.value)
    }

    /// As the console consumer prints it.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(4, FIELD);
        let (time, headers, key, value) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let header = |text: &str| text.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Some(Self {
            timestamp_ms: time.rsplit(':').next()?.parse().ok()?,
            headers: headers.split(HEADER).filter_map(header).collect(),
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct KafkaClient {
    jars: PathBuf,
    dir: PathBuf,
    bootstrap: String,
}

impl KafkaClient {
    pub(crate) fn new(jars: &Path, dir: &Path, bootstrap: String) -> Self {
        Self { jars: jars.to_owned(), dir: dir.to_owned(), bootstrap }
    }

    /// Makes a topic that nobody else makes, with these settings.
    pub async fn create_topic(&self, topic: &str, partitions: u32, settings: &[(&str, &str)]) -> Result<()> {
        let partitions = partitions.to_string();
        let mut args: Vec<String> =
            ["--create", "--topic", topic, "--partitions", &partitions].map(str::to_owned).to_vec();
        for (name, value) in settings {
            args.extend(["--config".to_owned(), format!("{name}={value}")]);
        }
        self.run("org.apache.kafka.tools.TopicCommand", &args, "").await.map(drop)
    }

    /// Deletes a topic with everything on it, and returns when it is gone.
    pub async fn delete_topic(&self, topic: &str) -> Result<()> {
        let args = ["--delete", "--topic", topic].map(str::to_owned);
        self.run("org.apache.kafka.tools.TopicCommand", &args, "").await?;
        while self.topics().await?.iter().any(|there| there == topic) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// How many partitions a topic has.
    pub async fn partitions(&self, topic: &str) -> Result<u32> {
        let args = ["--describe", "--topic", topic].map(str::to_owned);
        let text = self.run("org.apache.kafka.tools.TopicCommand", &args, "").await?;
        Ok(text.lines().filter(|line| line.contains("Partition: ")).count() as u32)
    }

    /// The names of all topics.
    pub async fn topics(&self) -> Result<Vec<String>> {
        let text = self.run("org.apache.kafka.tools.TopicCommand", &["--list".to_owned()], "").await?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Writes records to a topic; they are acknowledged when this returns.
    pub async fn produce(&self, topic: &str, records: &[PlainRecord]) -> Result<()> {
        let mut args = vec!["--topic".to_owned(), topic.to_owned(), "--sync".to_owned()];
        // `--sync` waits for each record, and by default each lingers for a second.
        for property in [format!("max.request.size={REQUEST_BYTES}"), "linger.ms=0".to_owned()] {
            args.extend(["--producer-property".to_owned(), property]);
        }
        for property in [
            "parse.headers=true".to_owned(),
            "parse.key=true".to_owned(),
            format!("headers.delimiter={FIELD}"),
            format!("headers.separator={HEADER}"),
            format!("key.separator={FIELD}"),
        ] {
            args.extend(["--property".to_owned(), property]);
        }
        let lines: String = records.iter().map(PlainRecord::line).collect();
        self.run("org.apache.kafka.tools.ConsoleProducer", &args, &lines).await.map(drop)
    }

    /// Every record of these topics, from the beginning to what their end is now. The order between partitions means nothing.
    pub async fn read(&self, topics: &[&str]) -> Result<Vec<PlainRecord>> {
        let end = self.end(topics).await?;
        if end == 0 {
            return Ok(Vec::new());
        }
        let pattern = topics.iter().map(|topic| topic.replace('.', "\\.")).collect::<Vec<_>>().join("|");
        let mut args = vec!["--include".to_owned(), pattern, "--from-beginning".to_owned()];
        args.extend(["--max-messages".to_owned(), end.to_string(), "--timeout-ms".to_owned(), "30000".to_owned()]);
        for property in [
            "print.timestamp=true".to_owned(),
            "print.headers=true".to_owned(),
            "print.key=true".to_owned(),
            format!("headers.separator={HEADER}"),
            format!("key.separator={FIELD}"),
        ] {
            args.extend(["--property".to_owned(), property]);
        }
        let text = self.run("org.apache.kafka.tools.consumer.ConsoleConsumer", &args, "").await?;
        let records: Vec<PlainRecord> = text.lines().filter_map(PlainRecord::parse).collect();
        if records.len() == end {
            return Ok(records);
        }
        Err(Error::Died {
            name: "the console consumer".into(),
            status: format!("{} of {end} records were read", records.len()),
            lines: last_lines(&text),
        })
    }

    /// How many records these topics have had.
    async fn end(&self, topics: &[&str]) -> Result<usize> {
        let args =
            ["--topic".to_owned(), topics.iter().map(|topic| topic.replace('.', "\\.")).collect::<Vec<_>>().join("|")];
        let text = self.run("org.apache.kafka.tools.GetOffsetShell", &args, "").await?;
        Ok(text.lines().filter_map(|line| line.rsplit(':').next()?.trim().parse::<usize>().ok()).sum())
    }

    /// Sets every consumer group back to the first record of every topic that it has read. No member may be running.
    pub async fn rewind_every_group(&self) -> Result<String> {
        let args = ["--all-groups", "--all-topics", "--reset-offsets", "--to-earliest", "--execute"];
        let args: Vec<String> = args.map(str::to_owned).to_vec();
        self.run("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", &args, "").await
    }

    /// How many records the consumer groups have yet to store the offset of, all together.
    pub async fn lag(&self) -> Result<usize> {
        let args = ["--describe", "--all-groups", "--offsets"].map(str::to_owned);
        let text = self.run("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", &args, "").await?;
        // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG …; a group that has stored nothing has `-`.
        let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        Ok(rows.filter_map(|row| row.get(5)?.parse::<usize>().ok()).sum())
    }

    async fn run(&self, class: &str, args: &[String], input: &str) -> Result<String> {
        let mut command = Command::new("java");
        clean(&mut command, &self.dir);
        command.args([
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
            "-cp",
        ]);
        command
            .arg(format!("{}/*", self.jars.display()))
            .arg(class)
            .args(["--bootstrap-server", &self.bootstrap])
            .args(args);
        command.current_dir(&self.dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = |source| Error::Spawn { name: "java".into(), source };
        let mut command = tokio::process::Command::from(command);
        let mut child = command.kill_on_drop(true).spawn().map_err(spawned)?;
        let mut stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin.take() {
                stdin.write_all(input.as_bytes()).await?;
            }
            Ok::<_, std::io::Error>(())
        };
        let run = async { tokio::join!(feed, child.wait_with_output()).1 };
        let name = class.rsplit('.').next().unwrap_or(class);
        let Ok(output) = timeout(TIMEOUT, run).await else {
            return Err(Error::Timeout {
                name: name.into(),
                what: "its end".into(),
                seconds: TIMEOUT.as_secs(),
                lines: String::new(),
            });
        };
        let output = output.map_err(spawned)?;
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() && !errors.contains("Exception") {
            return Ok(text.into_owned());
        }
        Err(Error::Died {
            name: name.into(),
            status: output.status.to_string(),
            lines: last_lines(&format!("{text}{errors}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record =
            PlainRecord { timestamp_ms: 7, key: "k".into(), value: "{\"a\":\"b:c\"}".into(), ..PlainRecord::default() };
        let record = record.with_header("ce_time", "2026-01-02T03:04:05Z").with_header("ce_id", "x");
        let line = format!("CreateTime:7{FIELD}{}", record.line().trim_end_matches('\n'));
        assert_eq!(PlainRecord::parse(&line), Some(record.clone()));
        assert_eq!(record.with_header("ce_id", "y").header("ce_id"), Some("y"));
        assert_eq!(PlainRecord::parse("Processed a total of 3 messages"), None);
    }
}
