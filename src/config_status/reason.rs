//! The condition type and the closed list of its reasons; `docs/resources/` explains each.

/// The condition that says whether a resource can be used.
pub const READY: &str = "Ready";
/// The condition of a Rule that is there while so many incidents of it are open that no further one opens.
pub const STORM: &str = "Storm";
/// The reason of [`STORM`].
pub const TOO_MANY_OPEN: &str = "TooManyOpen";
/// Everything compiles and everything that it refers to is there.
pub const VALID: &str = "Valid";
/// The resource cannot be read at all.
pub const MALFORMED: &str = "Malformed";
/// A matcher does not parse, or its regular expression cannot be used.
pub const INVALID_MATCHER: &str = "InvalidMatcher";
/// A CEL expression does not compile, or gives what its field cannot hold.
pub const INVALID_EXPRESSION: &str = "InvalidExpression";
/// A message template does not compile.
pub const INVALID_TEMPLATE: &str = "InvalidTemplate";
/// An address is none that mail can be sent to.
pub const INVALID_ADDRESS: &str = "InvalidAddress";
/// The target's name is no name of a resource.
pub const INVALID_TARGET: &str = "InvalidTarget";
/// The runbook's step cannot act on the target's kind.
pub const UNSUPPORTED_TARGET: &str = "UnsupportedTarget";
/// A step that undoes another needs a runbook of type `ScaleBack`, and the other way round.
pub const STEP_MISMATCH: &str = "StepMismatch";
/// The rule refers to a runbook that is not there.
pub const RUNBOOK_NOT_FOUND: &str = "RunbookNotFound";
/// The rule refers to a runbook that is not ready.
pub const RUNBOOK_NOT_READY: &str = "RunbookNotReady";
/// The rule sets a parameter that the runbook does not have, or the runbook's step names one.
pub const UNKNOWN_PARAMETER: &str = "UnknownParameter";
/// The rule does not set a parameter that has no default.
pub const MISSING_PARAMETER: &str = "MissingParameter";
/// A parameter's value is not of its type, or out of its bounds.
pub const INVALID_PARAMETER: &str = "InvalidParameter";
/// The rule refers to a channel that is not there.
pub const CHANNEL_NOT_FOUND: &str = "ChannelNotFound";
/// The rule refers to a channel that is not ready.
pub const CHANNEL_NOT_READY: &str = "ChannelNotReady";
/// The rule names a template that is neither built in nor the channel's.
pub const TEMPLATE_NOT_FOUND: &str = "TemplateNotFound";
/// Two notifications of the rule say the same to the same channel at the same event.
pub const DUPLICATE_NOTIFICATION: &str = "DuplicateNotification";
/// The channel refers to a Secret that is not there.
pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
/// The Secret has no such key.
pub const SECRET_KEY_NOT_FOUND: &str = "SecretKeyNotFound";
/// EventPulse may not read the Secret.
pub const SECRET_FORBIDDEN: &str = "SecretForbidden";

/// Every reason.
pub const ALL: [&str; 22] = [
    TOO_MANY_OPEN,
    VALID,
    MALFORMED,
    INVALID_MATCHER,
    INVALID_EXPRESSION,
    INVALID_TEMPLATE,
    INVALID_ADDRESS,
    INVALID_TARGET,
    UNSUPPORTED_TARGET,
    STEP_MISMATCH,
    RUNBOOK_NOT_FOUND,
    RUNBOOK_NOT_READY,
    UNKNOWN_PARAMETER,
    MISSING_PARAMETER,
    INVALID_PARAMETER,
    CHANNEL_NOT_FOUND,
    CHANNEL_NOT_READY,
    TEMPLATE_NOT_FOUND,
    DUPLICATE_NOTIFICATION,
    SECRET_NOT_FOUND,
    SECRET_KEY_NOT_FOUND,
    SECRET_FORBIDDEN,
];

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn every_reason_is_one_word_in_camel_case_and_is_explained_in_the_documentation() {
        let documentation = include_str!("../../docs/resources/conditions.md");
        for reason in ALL {
            assert!(
                reason.chars().all(|c| c.is_ascii_alphabetic()) && reason.starts_with(|c: char| c.is_ascii_uppercase()),
                "{reason}"
            );
            assert!(
                documentation.contains(&format!("| `{reason}` |")),
                "docs/resources/conditions.md does not explain {reason}"
            );
        }
    }
}
