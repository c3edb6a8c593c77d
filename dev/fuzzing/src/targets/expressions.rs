//! CEL conditions and texts with `$(…)`: an error names its place, what is taken costs no more than it may, and the same facts give the
//! same value.

use eventpulse::{
    events::AlertRaised,
    expression::{COST_MAX, Condition, ExpressionError, Scope, Template, Variable},
    rules::scope_of,
};

use crate::check::{example_alert, is_told, now, raised};

const FIELD: &str = "spec.incident.summary";
/// The most characters of a problem, and what stands around it.
const TOLD_MAX: usize = 512;

/// The source, and the alert behind `---` where there is one within its bounds.
fn split(data: &[u8]) -> Option<(&str, AlertRaised)> {
    let text = std::str::from_utf8(data).ok()?;
    let (source, alert) = text.split_once("\n---\n").unwrap_or((text, ""));
    let given = serde_json::from_str::<AlertRaised>(alert).ok();
    let id = eventpulse::events::EventId::new("alert.raised", "x", "");
    let fits =
        |alert: &AlertRaised| eventpulse::rules::RaisedAlert::read(id.clone(), None, alert.clone(), now()).is_ok();
    Some((source, given.filter(fits).unwrap_or_else(example_alert)))
}

/// A scope of its own, as every replica makes it.
fn scope(alert: &AlertRaised) -> Scope {
    let raised = raised(alert.clone(), "x");
    scope_of(&raised.alert, &raised.fingerprint)
}

fn is_placed(error: &ExpressionError, source: &str) {
    is_told(&error.problem, TOLD_MAX);
    assert_eq!(error.field, FIELD);
    let last = source.chars().count() + 1;
    assert!((1..=last).contains(&error.position), "character {} of {last}: {error}", error.position);
}

pub(crate) fn condition(data: &[u8]) {
    let Some((source, alert)) = split(data) else { return };
    let condition = match Condition::compile(FIELD, source, &[Variable::Alert]) {
        Ok(condition) => condition,
        Err(error) => return is_placed(&error, source),
    };
    assert!(condition.cost() <= COST_MAX, "{} steps", condition.cost());
    let holds = condition.holds(&scope(&alert));
    assert_eq!(holds, condition.holds(&scope(&alert)), "the same facts, another answer");
    if let Err(error) = holds {
        is_placed(&error, source);
    }
}

pub(crate) fn template(data: &[u8]) {
    let Some((source, alert)) = split(data) else { return };
    if let Ok(template) = Template::compile(FIELD, source, &[Variable::Params]) {
        template.fields_of(Variable::Params);
        if let Err(error) = template.integer(&Scope::default()) {
            is_placed(&error, source);
        }
    }
    let template = match Template::compile(FIELD, source, &[Variable::Alert]) {
        Ok(template) => template,
        Err(error) => return is_placed(&error, source),
    };
    if !source.contains('$') {
        assert!(template.is_constant(), "{source:?}");
    }
    // A rule with more is refused as a whole.
    if template.cost() > COST_MAX {
        return;
    }
    let whole = template.render_cut(&scope(&alert), usize::MAX);
    assert_eq!(whole, template.render_cut(&scope(&alert), usize::MAX), "the same facts, another text");
    match &whole {
        Err(error) => is_placed(error, source),
        Ok(text) => {
            // Every byte that is made costs one.
            let most = u64::try_from(source.len()).unwrap_or(u64::MAX).saturating_add(template.cost());
            assert!(text.len() as u64 <= most, "{} bytes, and {most} are the most", text.len());
            if template.is_constant() {
                assert_eq!(*text, source.replace("$$(", "$("), "a constant text is changed");
            }
            is_cut(&template, text, &alert);
        }
    }
}

/// Cut it is a beginning of the whole; where that would mean something else, it is an error.
fn is_cut(template: &Template, text: &str, alert: &AlertRaised) {
    for max in [0, 1, 7, 253] {
        let cut = template.render_cut(&scope(alert), max).expect("less is computed for less");
        assert!(cut.len() <= max && text.starts_with(&cut), "{cut:?} of {text:?}");
        match template.render(&scope(alert), max) {
            Ok(rendered) => assert!(rendered == text && text.len() <= max, "{rendered:?} of {text:?}"),
            Err(_) => assert!(text.len() > max, "{text:?} is refused within {max} bytes"),
        }
    }
}
