use std::collections::BTreeMap;

use super::*;
use crate::events::AlertStatus;

const ALERT: &[Variable] = &[Variable::Alert];

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn scope() -> Scope {
    let labels = map(&[("service", "svc-a"), ("severity", "warning"), ("replicas", "3"), ("odd", "a)b\"$(c)")]);
    let annotations = map(&[("summary", "CPU of svc-a ist zu hoch: 93 % 🙂")]);
    Scope::default()
        .with_alert(&AlertFacts {
            labels: &labels,
            annotations: &annotations,
            status: AlertStatus::Firing,
            starts_at: "2026-01-02T03:04:05Z".parse().unwrap(),
            ends_at: None,
            fingerprint: "0123456789abcdef",
            source: "prom",
        })
        .with_params(&BTreeMap::from([
            ("delta".to_owned(), Parameter::Integer(-2)),
            ("zone".to_owned(), Parameter::String("a".into())),
        ]))
}

fn render(text: &str) -> Result<String, String> {
    let all = &[Variable::Alert, Variable::Params];
    let template = Template::compile("spec.x", text, all).map_err(|e| e.to_string())?;
    template.render(&scope(), 200).map_err(|e| e.to_string())
}

fn holds(text: &str) -> Result<bool, String> {
    let condition = Condition::compile("spec.c", text, ALERT).map_err(|e| e.to_string())?;
    condition.holds(&scope()).map_err(|e| e.to_string())
}

#[test]
fn texts_with_expressions() {
    for (text, says) in [
        ("", ""),
        ("plain", "plain"),
        ("$(alert.labels.service)", "svc-a"),
        ("a $(alert.labels.service)/$(alert.labels.severity) z", "a svc-a/warning z"),
        ("$$(alert.labels.service)", "$(alert.labels.service)"),
        ("$5 and $$ and $", "$5 and $$ and $"),
        ("$(alert.labels['service'] + ')')", "svc-a)"),
        ("$((1 + 2) * (3 + 4))", "21"),
        ("$(\"\\\")\" + r'\\)' + '''it's )''')", "\")\\)it's )"),
        ("$(alert.labels.odd)", "a)b\"$(c)"),
        ("$(1 // a comment with )\n)", "1"),
        ("$(alert.annotations.summary)", "CPU of svc-a ist zu hoch: 93 % 🙂"),
        ("$(alert.status) $(alert.startsAt) $(has(alert.endsAt))", "firing 2026-01-02T03:04:05Z false"),
        ("$(alert.fingerprint)@$(alert.source)", "0123456789abcdef@prom"),
        ("$(params.delta * 2)$(params.zone)", "-4a"),
        ("$('severity' in alert.labels ? alert.labels.severity : 'none')", "warning"),
        ("$([1, 2].map(x, string(x + 1))[1])", "3"),
        ("ü$(1.5)ü", "ü1.5ü"),
    ] {
        assert_eq!(render(text).as_deref(), Ok(says), "{text}");
    }
}

#[test]
fn what_is_wrong_is_said_with_field_and_place() {
    for (text, says) in [
        ("$(", "spec.x, at character 3: $( has no closing )"),
        ("ü $(alert.labels", "spec.x, at character 5: $( has no closing )"),
        ("$()", "spec.x, at character 3: the expression is empty"),
        ("$( )", "spec.x, at character 3: the expression is empty"),
        ("$('x)", "spec.x, at character 3: a string has no end"),
        ("$([)", "spec.x, at character 4: a bracket is closed that was not opened"),
        ("$(1 +)", "spec.x, at character 6: "),
        ("x$(alarm.labels.a)", "spec.x, at character 4: there is no alarm here, only alert and params"),
        ("$(1 + lowerAscii('A'))", "spec.x, at character 17: there is no function lowerAscii"),
        ("$(Foo{a: 1})", "spec.x, at character 6: messages cannot be made here"),
        ("ab$(alert.labels.nope)", "spec.x, at character 3: there is no \"nope\" here"),
        ("$(alert.labels)", "spec.x, at character 1: gives a map"),
        ("$(1/0)", "spec.x, at character 1: division by zero"),
        ("$(9223372036854775807 + 1)", "spec.x, at character 1: "),
        ("$([1][7])", "spec.x, at character 1: "),
        ("$('a' + 1)", "spec.x, at character 1: add cannot be applied to a string and a int"),
        ("$(null)", "spec.x, at character 1: gives a null"),
        (
            "$(alert.annotations.summary + alert.annotations.summary + alert.annotations.summary + alert.annotations.summary + alert.annotations.summary + alert.annotations.summary + alert.annotations.summary + alert.annotations.summary)",
            "spec.x, at character 1: gives more than 200 bytes",
        ),
    ] {
        let error = render(text).unwrap_err();
        assert!(error.starts_with(says), "{text}: {error}");
    }
}

#[test]
fn conditions() {
    for (text, value) in [
        ("has(alert.labels.service)", true),
        ("has(alert.labels.nope)", false),
        ("int(alert.labels.replicas) >= 3 && alert.labels.service.startsWith('svc-')", true),
        ("alert.labels.exists(name, name == 'severity')", true),
        ("alert.labels.all(name, alert.labels[name] != '')", true),
        ("alert.startsAt < timestamp('2027-01-01T00:00:00Z')", true),
        ("alert.labels.service.matches('^svc-[a-z]$')", true),
        ("alert.labels.service.matches('vc') && !matches(alert.labels.service, 'VC')", true),
        ("alert.labels.exists(name, name.matches('^sev') && alert.labels[name].matches('^warn'))", true),
        ("'svc-ä'.matches('^svc-\\\\w$')", false),
        ("type(alert.status) == string", true),
        ("alert.?endsAt.hasValue()", false),
        ("'a' in alert.labels || true", true),
    ] {
        assert_eq!(holds(text), Ok(value), "{text}");
    }
    for (text, says) in [
        ("alert.labels.service", "spec.c, at character 1: gives neither true nor false"),
        ("'true'", "spec.c, at character 1: gives neither true nor false"),
        ("1", "spec.c, at character 1: gives neither true nor false"),
        ("[true]", "spec.c, at character 1: gives neither true nor false"),
        ("alert", "spec.c, at character 1: gives neither true nor false"),
        ("alert.labels.service + ''", "spec.c, at character 1: gives a string, a condition needs true or false"),
        ("has(alert.labls.service)", "spec.c, at character "),
        ("alert.label.service == 'x'", "spec.c, at character 6: alert has no label, only labels, annotations, status"),
        ("alert['Labels'].service == 'x'", "spec.c, at character "),
        ("true || alert.endAt == alert.startsAt", "spec.c, at character "),
        ("alert.labels.nope == 'x'", "spec.c, at character 1: there is no \"nope\" here"),
        ("params.delta == 1", "spec.c, at character 1: there is no params here, only alert"),
        ("int(alert.labels.service) > 1", "spec.c, at character 1: "),
        ("alert.labels.service.matches('(')", "spec.c, at character 30: regular expression \"(\": missing closing )"),
        (
            "true || matches('a', alert.labels.service)",
            "spec.c, at character 34: the pattern of matches must be a text in quotes",
        ),
        (
            "'a'.matches('(\\\\w{100}){20}')",
            "spec.c, at character 13: regular expression \"(\\\\w{100}){20}\": needs more than 65536",
        ),
        ("true &&", "spec.c, at character "),
        ("\n\n  alert.x ==", "spec.c, at character "),
        ("", "spec.c, at character 1: the expression is empty"),
    ] {
        let error = holds(text).unwrap_err();
        assert!(error.starts_with(says), "{text:?}: {error}");
    }
}

#[test]
fn whole_numbers() {
    let number = |text: &str| {
        let template = Template::compile("delta", text, &[Variable::Params]).map_err(|e| e.to_string())?;
        template.integer(&scope()).map_err(|e| e.to_string())
    };
    assert_eq!(number("$(params.delta)"), Ok(-2));
    assert_eq!(number("7"), Ok(7));
    assert!(number("$(params.zone)").unwrap_err().starts_with("delta, at character 1: gives \"a\""));
    assert!(number("$(params.zone").is_err());
    assert!(number("99999999999999999999").is_err());
    assert!(number("1.5").is_err());
}

/// A name that was cut names something else, also where the bound lies within a character.
#[test]
fn a_text_that_is_too_long_is_refused_whatever_stands_at_the_bound() {
    for (text, max) in [("üü", 3), ("aü", 1), ("a🙂", 1), ("aaa🙂", 4), ("🙂🙂", 7)] {
        let template = Template::compile("spec.x", text, ALERT).unwrap();
        let error = template.render(&scope(), max).unwrap_err().to_string();
        assert!(error.contains(&format!("gives more than {max} bytes")), "{text} {max}: {error}");
        assert_eq!(template.render(&scope(), text.len()).as_deref(), Ok(text));
    }
}

#[test]
fn a_summary_is_cut_between_characters() {
    let template = Template::compile("s", "äöü$(alert.annotations.summary)", ALERT).unwrap();
    assert_eq!(template.render_cut(&scope(), 3).unwrap(), "ä");
    assert_eq!(template.render_cut(&scope(), 9).unwrap(), "äöüCPU");
    assert!(!template.is_constant());
    assert!(Template::compile("s", "$$(x)", ALERT).unwrap().is_constant());
}

/// On a stack of 2 MiB, which is what the runtime's workers have.
fn on_a_workers_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
}

#[test]
fn hostile_expressions_are_refused_and_end_nothing() {
    on_a_workers_stack(|| {
        let long = "a".repeat(EXPRESSION_LEN_MAX + 1);
        for text in [
            "(".repeat(4000),
            format!("{}1{}", "(".repeat(2000), ")".repeat(2000)),
            format!("{}1{}", "[".repeat(2000), "]".repeat(2000)),
            format!("{}1{}", "{1:".repeat(900), "}".repeat(900)),
            format!("{}true", "!".repeat(4000)),
            format!("{}1", "-".repeat(4000)),
            format!("1{}", "+1".repeat(2000)),
            format!("true{}", "&&true".repeat(600)),
            format!("{}1", "true?1:".repeat(500)),
            format!("alert{}", ".a".repeat(2000)),
            format!("alert{}", "[0]".repeat(1200)),
            format!("{}{}", "size(".repeat(600), ")".repeat(600)),
            "[1].map(a, [1].map(b, [1].map(c, 1)))".into(),
            "[1].map(a, 1) == [1].map(a, 1) && [1].map(a, 1) == [1].map(a, 1) && [1].exists(a, true)".into(),
            long,
            "'".repeat(4000),
            "\u{0}\u{1}\u{7f}".into(),
            "\u{202e}alert".into(),
            "1 in 1 in 1 in".into(),
            "@accu".into(),
        ] {
            let shown: String = text.chars().take(40).collect();
            assert!(Condition::compile("c", &text, ALERT).is_err(), "{shown} was accepted");
            assert!(Template::compile("c", &format!("$({text})"), ALERT).is_err(), "$({shown}) was accepted");
        }
    });
}

#[test]
fn what_multiplies_texts_or_work_is_bounded_to_the_number() {
    on_a_workers_stack(|| {
        let compiles = |text: &str| Condition::compile("c", text, ALERT).map(drop).map_err(|error| error.to_string());
        let sum = |signs: usize| format!("1{} > 0", "+1".repeat(signs));
        assert_eq!(compiles(&sum(CONCATENATIONS_MAX)), Ok(()));
        assert!(compiles(&sum(CONCATENATIONS_MAX + 1)).unwrap_err().contains("at most 32 +"));
        let macros = |count: usize| vec!["[1].exists(a, true)"; count].join(" && ");
        assert_eq!(compiles(&macros(COMPREHENSIONS_MAX)), Ok(()));
        assert!(compiles(&macros(COMPREHENSIONS_MAX + 1)).unwrap_err().contains("at most 4 macros"));
        let nested = |depth: usize| (0..depth).fold("true".to_owned(), |inner, _| format!("[1].exists(a, {inner})"));
        assert_eq!(compiles(&nested(COMPREHENSION_NESTING_MAX)), Ok(()));
        assert!(compiles(&nested(COMPREHENSION_NESTING_MAX + 1)).unwrap_err().contains("nested at most 2 deep"));
        // What a parser says of hostile text may be long.
        let long = compiles(&format!("'a' {}", "\u{1f6a8}".repeat(900))).unwrap_err();
        assert!(long.chars().count() < PROBLEM_LEN_MAX + 100, "{long}");
    });
}

#[test]
fn the_largest_allowed_expressions_fit_a_workers_stack() {
    on_a_workers_stack(|| {
        let nested = NESTING_MAX;
        let mut compiled = 0;
        for text in [
            format!("{}true{}", "(".repeat(nested), ")".repeat(nested)),
            format!("{}1{} != [2]", "[".repeat(nested), "]".repeat(nested)),
            format!("{}1{} != {{}}", "{1:".repeat(nested), "}".repeat(nested)),
            format!("1{} > 0", "*1".repeat(OPERATORS_MAX - 1)),
            format!("1{} > 0", "-1".repeat(OPERATORS_MAX - 1)),
            format!("true{}", "&&true".repeat((OPERATORS_MAX - 2) / 2)),
            format!("{}true", "!".repeat(OPERATORS_MAX)),
            format!("{}true", "true?true:".repeat(OPERATORS_MAX / 2)),
            format!("alert{} == 1", ".a".repeat(OPERATORS_MAX - 2)),
        ] {
            if let Ok(condition) = Condition::compile("c", &text, ALERT) {
                let _ = condition.holds(&scope());
                compiled += 1;
            }
        }
        assert!(compiled >= 6, "only {compiled} of them compile: the parser's own bound is below ours");
    });
}

#[test]
fn a_text_holds_a_bounded_number_of_expressions() {
    assert!(Template::compile("t", &"$(1)".repeat(TEMPLATE_EXPRESSIONS_MAX), ALERT).is_ok());
    assert!(Template::compile("t", &"$(1)".repeat(TEMPLATE_EXPRESSIONS_MAX + 1), ALERT).is_err());
    assert!(Template::compile("t", &"x".repeat(TEMPLATE_LEN_MAX + 1), ALERT).is_err());
}

#[test]
fn compiled_expressions_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Template>();
    shared::<Condition>();
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[\\x00-\\x7fä🙂]{0,60}", cel in "[a-c1()\\[\\]{}.,:?+*!&|'\"\\\\ $-]{0,60}") {
        for source in [&text, &cel] {
            let _ = Condition::compile("c", source, ALERT).map(|condition| condition.holds(&scope()));
            let _ = Template::compile("t", source, ALERT).map(|template| template.render(&scope(), 100));
            let _ = Template::compile("t", &format!("$({source})"), ALERT).map(|template| template.render(&scope(), 100));
        }
    }
}

#[test]
fn a_text_knows_which_parameters_it_names() {
    let params = &[Variable::Params];
    let text = "$(params.a + int(params['b'])) $([1].exists(x, x > params.c)) $(has(params.d) ? {'k': params.a}.k : 1)";
    let named: Vec<String> =
        Template::compile("t", text, params).unwrap().fields_of(Variable::Params).into_iter().collect();
    assert_eq!(named, ["a", "b", "c", "d"]);
    assert!(Template::compile("t", "$(1)", params).unwrap().fields_of(Variable::Params).is_empty());
}

#[test]
fn one_expression_is_not_two_and_not_one_with_text() {
    let one = |text| Template::compile("t", text, &[Variable::Params]).unwrap().is_one_expression();
    assert!(one("$(params.a)") && !one("$(1)$(2)") && !one("-$(1)") && !one("5"));
}

#[test]
fn what_people_write_costs_little_and_what_multiplies_is_refused() {
    for text in [
        "has(alert.labels.service) && alert.labels.service.startsWith('svc-')",
        "alert.labels.severity in ['critical', 'warning', 'page']",
        "alert.labels.service.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "alert.annotations.summary.matches('(?i)out of memory|oom|evicted')",
        "alert.labels.exists(name, alert.labels[name].matches('^prod-[a-z]+-(eu|us)-[0-9]+$'))",
        "alert.labels.all(name, alert.labels[name] != '') && alert.annotations.all(name, name in alert.labels)",
        "alert.labels.all(a, alert.labels.all(b, a == b || alert.labels[a] != alert.labels[b]))",
        "alert.labels.map(name, name + '=' + alert.labels[name]).exists(pair, pair == 'team=shop')",
        "size(alert.labels.filter(name, name.startsWith('shop_'))) > 2",
    ] {
        let condition = Condition::compile("c", text, ALERT).unwrap_or_else(|error| panic!("{text}: {error}"));
        with_largest(|scope| drop(condition.holds(&scope)));
    }
    let nested = |body: &str| format!("alert.labels.all(a, alert.labels.all(b, {body}))");
    let doubled = |times: usize| {
        let twice = ".map(x, x + x + x + x + x + x + x + x)";
        format!("size([alert.annotations.summary]{}) > 0", twice.repeat(times))
    };
    for text in [
        nested("!a.matches('(\\\\w{100}){5}')"),
        nested("!alert.labels[a].matches('x')"),
        nested("alert.labels.service + a + b != ''"),
        nested("alert.annotations.summary.contains(alert.annotations.text)"),
        doubled(3),
        doubled(4),
        "alert.labels.map(a, alert.labels.map(b, alert.labels)) != []".into(),
    ] {
        let error = Condition::compile("c", &text, ALERT).unwrap_err().to_string();
        assert!(error.starts_with("c, at character 1: may cost "), "{text}: {error}");
    }
}

/// The largest alert that is accepted.
fn with_largest<T>(work: impl FnOnce(Scope) -> T) -> T {
    use crate::events::bounds;
    let value = |bytes: usize| "x".repeat(bytes);
    let labels: BTreeMap<String, String> = (0..bounds::LABELS).map(|i| (format!("l{i:03}"), value(480))).collect();
    let annotations: BTreeMap<String, String> = (0..4).map(|i| (format!("a{i}"), value(16 << 10))).collect();
    work(Scope::default().with_alert(&AlertFacts {
        labels: &labels,
        annotations: &annotations,
        status: AlertStatus::Firing,
        starts_at: "2026-01-02T03:04:05Z".parse().unwrap(),
        ends_at: None,
        fingerprint: "0123456789abcdef",
        source: "prom",
    }))
}

/// Of every evaluation its own scope, as of every replica: a hash table of its own has another order.
#[test]
fn a_map_is_gone_through_in_one_order() {
    for (text, says) in [
        ("$(alert.labels.map(l, l)[0])", "odd"),
        ("$(alert.labels.filter(l, l != 'odd')[1])", "service"),
        ("$({'e': 1, 'b': 2, 'd': 3, 'a': 4, 'c': 5}.map(k, k)[4])", "e"),
        ("$({9: 1, 2: 2, 5: 3, 7: 4}.map(k, k)[0])", "2"),
        ("$([3, 1, 2].map(k, k)[0])", "3"),
        ("$(alert.labels.map(l, {l: 1, 'zzz': 2, 'aaa': 3}.map(k, k)[0])[0])", "aaa"),
    ] {
        for _ in 0..20 {
            assert_eq!(render(text), Ok(says.to_owned()), "{text}");
        }
    }
}
