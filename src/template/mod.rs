//! Message templates (minijinja): which ones are built in, and whether a text is one.
//!
//! In: the text of a template, and values. Out: a text within bounds, or a [`TemplateError`] that names the line; never a panic.
//! Pure: no clock, no I/O, no service. `notify` renders with it, `config` checks with it, so that both agree.

use std::panic::{AssertUnwindSafe, catch_unwind};

use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value};

/// The names of the built-in templates. A channel's own template of the same name takes its place.
pub const BUILT_IN: [&str; 5] =
    ["IncidentOpened", "IncidentMitigating", "ActionFailed", "IncidentResolved", "IncidentFailed"];
/// How much one rendering may do (promise 6); a built-in template needs less than 1,000.
pub const FUEL_MAX: u64 = 50_000;
/// How deep templates may nest.
const RECURSION_MAX: usize = 16;
/// The longest problem that is told.
const PROBLEM_LEN_MAX: usize = 400;

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct TemplateError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

/// Where templates are rendered: bounded work, nothing loaded from anywhere, no escaping, a missing value is empty text.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL_MAX));
    environment.set_recursion_limit(RECURSION_MAX);
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment
}

/// The text that a template gives with these values.
pub fn render(source: &str, values: &Value) -> Result<String, TemplateError> {
    totally(|| {
        let environment = environment();
        let template = environment.template_from_str(source)?;
        template.render(values)
    })
}

/// A panic of the library, as `range` has one where numbers are checked, is an error of the template that brings it about.
fn totally<T>(work: impl FnOnce() -> Result<T, minijinja::Error>) -> Result<T, TemplateError> {
    let panicked = |_| TemplateError { line: 1, problem: "the template cannot be rendered".into() };
    catch_unwind(AssertUnwindSafe(work)).map_err(panicked)?.map_err(|error| TemplateError::from(&error))
}

/// Whether the text is a template: it parses, and the filters, tests and functions on its way through empty values are there.
/// (minijinja looks a filter up when it comes to it, so one in a branch that is not taken stays unseen.)
pub fn check(source: &str) -> Result<(), TemplateError> {
    totally(|| {
        let environment = environment();
        let template = environment.template_from_str(source)?;
        match template.render(()) {
            Err(error) if is_for_every_message(error.kind()) => Err(error),
            _ => Ok(()),
        }
    })
}

/// Whether the problem lies in the template, not in what it was given.
fn is_for_every_message(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnknownFilter | ErrorKind::UnknownTest | ErrorKind::UnknownFunction | ErrorKind::TemplateNotFound
    )
}

impl From<&minijinja::Error> for TemplateError {
    fn from(error: &minijinja::Error) -> Self {
        let problem =
            error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
        Self { line: error.line().unwrap_or(1), problem: problem.chars().take(PROBLEM_LEN_MAX).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_told_from_what_is_none() {
        assert_eq!(check("{{ incident.summary | upper }}\n{% if action %}{{ action.target }}{% endif %}"), Ok(()));
        assert_eq!(check("{{ incident.never.there }}"), Ok(()));
        for (source, line) in [
            ("{{ incident", 1),
            ("ok\n{% if %}", 2),
            ("{% endfor %}", 1),
            ("{{ 'a }}", 1),
            ("{{ x | nosuchfilter }}", 1),
        ] {
            let error = check(source).expect_err(source);
            assert_eq!(error.line, line, "{source}: {error}");
            assert!(!error.problem.is_empty(), "{source}");
        }
    }

    #[test]
    fn hostile_text_gives_an_answer() {
        for source in [
            "{{".repeat(5_000),
            "{% if x %}".repeat(2_000),
            format!("{{{{ {}1{} }}}}", "(".repeat(4_000), ")".repeat(4_000)),
            "\0{{\u{202e}".into(),
        ] {
            assert!(check(&source).is_err());
        }
        for source in ["{{ {} }}".replacen("{}", &"(".repeat(4_000), 1), format!("{{% {} %}}", "x".repeat(8_000))] {
            assert!(check(&source).unwrap_err().problem.chars().count() <= PROBLEM_LEN_MAX);
        }
        let endless = "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}";
        let problem = render(endless, &Value::UNDEFINED).unwrap_err().problem;
        assert!(problem.contains("recursion"), "{problem}");
        // A debug build panics in the library, a release build gives its error.
        let range = "{{ range(9223372036854775807, -9223372036854775808, -1) }}";
        assert!(render(range, &Value::UNDEFINED).is_err());
    }
}
