//! What an operator sets: durations are written as they are read, and flags are taken, or each mistake is named without a secret.

use std::{collections::BTreeMap, sync::OnceLock};

use clap::Parser;
use eventpulse::{
    api::v1alpha1::Duration,
    config::RunFlags,
    runtime::telemetry::{Settings, Variables},
};
use regex::Regex;

use crate::check::{is_kept, is_told};

/// What stands for every password, so that it is found wherever it is told.
const PASSWORD: &str = "xoxsecretxox-7f3k2pq9";

pub(crate) fn duration(data: &[u8]) {
    static PATTERN: OnceLock<Regex> = OnceLock::new();
    // GEP-2257, as the definitions of the resources have it.
    let pattern = PATTERN.get_or_init(|| Regex::new("^([0-9]{1,5}(h|m|s|ms)){1,4}$").expect("a pattern"));
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Duration>() {
        Ok(duration) => {
            assert!(pattern.is_match(text), "{text:?} is taken, and the API server refuses it");
            let written = duration.to_string();
            assert!(pattern.is_match(&written), "{written:?} of {text:?} is refused by the API server");
            assert_eq!(written.parse().as_ref(), Ok(&duration), "{written:?} of {text:?}");
            assert_eq!(u128::try_from(duration.as_millis()), Ok(duration.as_std().as_millis()));
            assert_eq!(duration.as_signed().as_millis(), i128::from(duration.as_millis()));
            is_kept(&duration);
        }
        // Of 64 characters that people do not see each is shown by several.
        Err(error) => is_told(&error, 1024),
    }
}

#[derive(Debug, Parser)]
struct Run {
    #[command(flatten)]
    flags: RunFlags,
}

pub(crate) fn flags(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // A command line holds no NUL.
    if text.contains('\0') {
        return;
    }
    let (variables, flags): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with("OTEL_"));
    // Certificates and keys are files, and plugins are code: what stands in them is not what is looked at here.
    let is_file = |name: &str| name.contains("CERTIFICATE") || name.ends_with("_KEY");
    let variables: BTreeMap<&str, &str> =
        variables.iter().filter_map(|line| line.split_once('=')).filter(|(name, _)| !is_file(name)).collect();
    let get = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    if let Err(error) = Settings::read(&Variables(&get)) {
        assert!(
            error.name().starts_with("OTEL_") && !error.problem().is_empty(),
            "{} {}",
            error.name(),
            error.problem()
        );
    }
    let flags = flags.into_iter().filter(|flag| !flag.contains("plugin.library.paths")).map(masked);
    let Ok(run) = Run::try_parse_from(std::iter::once("run".to_owned()).chain(flags)) else { return };
    let flags = run.flags;
    flags.without_effect().iter().for_each(|note| is_told(note, 400));
    assert!(!flags.services().is_empty(), "a process without a service");
    match flags.resolve() {
        Ok(config) => assert!(!format!("{config:?}").contains(PASSWORD), "a password in the debug text"),
        Err(errors) => {
            let told = errors.to_string();
            assert!(!told.contains(PASSWORD), "a password is told: {told}");
            assert!(!errors.is_empty() && told.lines().any(|line| line.starts_with("--")), "no flag is named: {told}");
        }
    }
}

/// A setting of librdkafka that is a password is set to the one that is looked for.
fn masked(flag: &str) -> String {
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    let name = flag.split_once("password=").and_then(|(before, _)| before.strip_prefix("--kafka-config="));
    match name.filter(|name| is_name(name)) {
        Some(name) => format!("--kafka-config={name}password={PASSWORD}"),
        None => flag.to_owned(),
    }
}
