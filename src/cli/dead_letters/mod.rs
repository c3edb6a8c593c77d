//! `eventpulse dead-letters`: what could not be used, and giving it to the services again.
//!
//! In: the topic dead.letter, and for a retry the topics that its records stood on. Out: a table, one letter with everything, or the
//! original records once more. Parts: what is read (`letters`), and pure: where a letter came from (`origin`), what would be published
//! again (`retry`), how it is printed (`render`).

mod letters;
mod origin;
mod render;
mod retry;

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use jiff::Timestamp;

pub(super) use self::origin::Origin;
use self::{
    letters::{Found, Letter, Wanted},
    retry::Plan,
};
use super::{
    flags::{Output, Since, is_absent},
    out::{print, print_json},
};
use crate::{
    bus::{BusConfig, beside, history},
    cli::reasons,
    config::{ConfigErrors, LogFlags},
    events::{DeadLetterReason, Record, Topic},
    rules,
};

/// The most letters of a list; the newest (promise 6).
const LIST_MAX: usize = 10_000;
/// The most letters that are shown at once: one origin may have several.
const SHOW_MAX: usize = 20;
/// The most letters of one retry.
const RETRY_MAX: usize = 500;

#[derive(Args, Clone, Debug)]
pub(super) struct DeadLettersArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// List them, oldest first: where each came from, and what is wrong with it.
    ///
    ///   eventpulse dead-letters list --since 24h --reason refused
    #[command(verbatim_doc_comment)]
    List(ListArgs),
    /// Print everything of one: its headers, and its bytes as text, or in base 64 where they are none.
    ///
    ///   eventpulse dead-letters show alert.raised/3@1207
    #[command(verbatim_doc_comment)]
    Show(ShowArgs),
    /// Publish the original record again, under its own event id, when what was wrong is mended.
    ///
    /// What comes again changes nothing that was done before; an alert that was accepted longer ago than the rule's acceptWindow
    /// (1 h) opens nothing any more. The record carries the header eventpulse-retried-from. What never was a record, like one alert
    /// of a request, cannot be published again; it is said what to do instead.
    ///
    /// With the embedded log the running process writes it, asked over a socket in --data-dir; where none runs, this command does.
    ///
    ///   eventpulse dead-letters retry alert.raised/3@1207
    ///   eventpulse dead-letters retry --reason refused --topic alert.raised --since 1h --dry-run
    #[command(verbatim_doc_comment)]
    Retry(RetryArgs),
}

#[derive(Args, Clone, Debug)]
struct Source {
    #[command(flatten)]
    log: LogFlags,

    /// From when on: how long ago, or a time like 2026-01-02T03:04:05Z. dead.letter is kept for seven days.
    #[arg(long, default_value = "168h", value_name = "DURATION | TIME")]
    since: Since,
}

#[derive(Args, Clone, Debug)]
struct Filter {
    /// Only those with this reason of docs/reasons.md, like invalidData or refused.
    #[arg(long, value_parser = parse_reason, value_name = "REASON")]
    reason: Option<DeadLetterReason>,

    /// Only those that were records of this topic, like alert.raised.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<Topic>,
}

#[derive(Args, Clone, Debug)]
struct ListArgs {
    #[command(flatten)]
    from: Source,

    #[command(flatten)]
    filter: Filter,

    /// How it is printed.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Args, Clone, Debug)]
struct ShowArgs {
    /// As `list` prints it: where it came from, where it stands (dead.letter/0@7), or its id.
    #[arg(value_name = "ORIGIN")]
    subject: String,

    #[command(flatten)]
    from: Source,

    /// How it is printed.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Args, Clone, Debug)]
struct RetryArgs {
    /// As `list` prints them: where they came from, where they stand (dead.letter/0@7), or their ids.
    #[arg(value_name = "ORIGIN", required_unless_present = "reason", conflicts_with_all = ["reason", "topic"])]
    subjects: Vec<String>,

    #[command(flatten)]
    from: Source,

    #[command(flatten)]
    filter: Filter,

    /// Say what would be published, and publish nothing.
    #[arg(long)]
    dry_run: bool,

    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

fn parse_reason(text: &str) -> Result<DeadLetterReason, String> {
    serde_json::from_value(text.into()).map_err(|_| {
        let known = reasons::words::<DeadLetterReason>();
        format!("{text:?} is no reason of a dead letter; there are {}", known.join(", "))
    })
}

/// Does what was asked for.
pub(super) fn dead_letters(args: &DeadLettersArgs) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the async runtime")?;
    runtime.block_on(async {
        match &args.command {
            Command::List(args) => list(args).await,
            Command::Show(args) => show(args).await,
            Command::Retry(args) => retry(args).await,
        }
    })
}

async fn find(from: &Source, wanted: Wanted, max: usize) -> anyhow::Result<(BusConfig, Found)> {
    let (bus, now) = (from.log.to_read()?, Timestamp::now());
    let since = from.since.begin(now);
    if since > now {
        return Err(ConfigErrors::of("since", format!("{since} lies in the future")).into());
    }
    // Who may not look at the group may read all the same.
    let known = history::progress(bus.clone(), rules::CONSUMES.group, Topic::DeadLetter).await;
    if known.is_ok_and(|partitions| partitions.is_empty()) {
        return Err(is_absent(Topic::DeadLetter));
    }
    let found = letters::read(&bus, since, wanted, max).await?;
    Ok((bus, found))
}

async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let Filter { reason, topic } = args.filter;
    let (_, found) = find(&args.from, Wanted::Summaries { reason, topic }, LIST_MAX).await?;
    match args.output {
        Output::Text => print(&render::table(&found)),
        Output::Json => print_json(&render::list(&found)),
    }
}

async fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let (bus, found) = find(&args.from, Wanted::Named(vec![args.subject.clone()]), SHOW_MAX).await?;
    if found.letters.is_empty() {
        bail!("{}", unknown(&args.subject, args.from.since));
    }
    let mut shown = Vec::new();
    for letter in &found.letters {
        let whole = if letter.letter.truncated { original(&bus, letter).await? } else { None };
        shown.push(render::whole(letter, whole.as_ref()));
    }
    match args.output {
        Output::Json => print_json(&shown),
        Output::Text => {
            let mut text: String = shown.iter().map(|letter| format!("{}\n", render::text(letter))).collect();
            if found.left_out > 0 {
                text.push_str(&format!("{} older ones are not shown; ask for one by its id\n", found.left_out));
            }
            print(&text)
        }
    }
}

fn unknown(subject: &str, since: Since) -> String {
    format!(
        "there is no dead letter {subject} since {since}; `eventpulse dead-letters list` prints where each came from, and --since reads \
         further back"
    )
}

async fn retry(args: &RetryArgs) -> anyhow::Result<()> {
    let Filter { reason, topic } = args.filter;
    let is_named = !args.subjects.is_empty();
    let wanted = if is_named { Wanted::Named(args.subjects.clone()) } else { Wanted::Whole { reason, topic } };
    let (bus, found) = find(&args.from, wanted, RETRY_MAX).await?;
    if found.left_out > 0 {
        bail!(
            "these are more than {RETRY_MAX} dead letters; narrow it by --topic, or by a later --since, and go on with the others then"
        );
    }
    for subject in &args.subjects {
        if !found.letters.iter().any(|letter| letter.is_called(subject)) {
            bail!("{}", unknown(subject, args.from.since));
        }
    }
    let now = Timestamp::now();
    let mut plans = Vec::new();
    for letter in retry::newest_of_each(found.letters) {
        let record = original(&bus, &letter).await?;
        plans.push(retry::plan(letter, record, now));
    }
    print(&plans.iter().map(|plan| format!("{}\n", render::plan(plan))).collect::<String>())?;
    let refused = plans.iter().filter(|plan| plan.record.is_err()).count();
    let records: Vec<Record> = plans.iter().filter_map(|plan| plan.record.clone().ok()).collect();
    if !records.is_empty() && !args.dry_run {
        confirm(args.yes, records.len())?;
        beside::publish(bus, records).await.context(
            "not all was published, and some may have been; the same command again does no harm, because what comes twice changes nothing",
        )?;
        let done = plans.iter().filter(|plan| plan.record.is_ok());
        print(&done.map(|plan: &Plan| format!("{}\n", render::done(plan))).collect::<String>())?;
    } else if records.is_empty() && refused == 0 {
        print("There is nothing to publish again.\n")?;
    }
    if is_named && refused > 0 {
        bail!("{refused} of {} cannot be published again", plans.len());
    }
    Ok(())
}

/// The record as it stands on its topic, if it still does. It is the letter's only if it begins with the letter's bytes: a topic may
/// have been made anew.
async fn original(bus: &BusConfig, letter: &Letter) -> anyhow::Result<Option<Record>> {
    let Origin::Record { at, offset } = letter.origin else { return Ok(None) };
    let past = history::find(bus.clone(), at, offset).await.context("look for the original record")?;
    Ok(past.map(|past| past.record).filter(|record| letter.is_of(record)))
}

fn confirm(yes: bool, count: usize) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    let (mut input, mut errors) = (std::io::stdin().lock(), std::io::stderr());
    if !input.is_terminal() {
        return Err(ConfigErrors::of(
            "yes",
            "is needed where nobody can be asked; --dry-run says what would be published",
        )
        .into());
    }
    write!(errors, "Publish {count} again? [y/N] ").and_then(|()| errors.flush()).context("ask")?;
    let mut answer = String::new();
    input.read_line(&mut answer).context("read the answer")?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { bail!("nothing was published") }
}
