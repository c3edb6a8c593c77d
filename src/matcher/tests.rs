use std::collections::BTreeMap;

use super::*;

fn one(input: &str) -> Result<(String, Operator, String), String> {
    let matchers = parse(input).map_err(|e| e.to_string())?;
    assert_eq!(matchers.len(), 1, "{input}");
    Ok((matchers[0].name().into(), matchers[0].operator(), matchers[0].value().into()))
}

/// The facts of Alertmanager's own parsers: what each text means.
#[test]
fn one_matcher_means_what_it_means_in_alertmanager() {
    use Operator::{Equal, Match, NotEqual, NotMatch};
    for (input, name, operator, value) in [
        ("foo=bar", "foo", Equal, "bar"),
        ("foo!=bar", "foo", NotEqual, "bar"),
        ("foo=~[a-z]+", "foo", Match, "[a-z]+"),
        ("foo!~[a-z]+", "foo", NotMatch, "[a-z]+"),
        ("foo=bar,", "foo", Equal, "bar"),
        ("{foo=bar}", "foo", Equal, "bar"),
        ("{foo=bar,}", "foo", Equal, "bar"),
        ("{\"foo\"=\"bar\"}", "foo", Equal, "bar"),
        ("\"foo\"=\"bar\",", "foo", Equal, "bar"),
        (" \t{ foo = bar , } \n", "foo", Equal, "bar"),
        ("foo=🙂bar", "foo", Equal, "🙂bar"),
        ("\"foo\"=\"\\xf0\\x9f\\x99\\x82\"", "foo", Equal, "🙂"),
        ("\"foo\"=\"\\U0001f642\\u00fc\\101\"", "foo", Equal, "🙂üA"),
        ("\"foo\"=\"a\\a\\b\\f\\r\\t\\v\\\\\\\"\"", "foo", Equal, "a\u{7}\u{8}\u{c}\r\t\u{b}\\\""),
        ("\"foo\"=~\"\\\\d+\"", "foo", Match, "\\d+"),
        ("\"foo bar\"=\"x\"", "foo bar", Equal, "x"),
        ("\"größe.🙂\"=x", "größe.🙂", Equal, "x"),
        ("größe=x", "größe", Equal, "x"),
        ("service.name=x", "service.name", Equal, "x"),
        ("\"a,b\"=\"c,d\"", "a,b", Equal, "c,d"),
        ("foo=\"\"", "foo", Equal, ""),
        ("foo=\"a}\"", "foo", Equal, "a}"),
        ("foo=\"bar, baz\"", "foo", Equal, "bar, baz"),
        // What only the older parser reads.
        ("foo=", "foo", Equal, ""),
        ("foo = ", "foo", Equal, ""),
        ("foo=bar baz", "foo", Equal, "bar baz"),
        ("foo=~\"\\d+\"", "foo", Match, "\\d+"),
        ("foo=\\w", "foo", Equal, "\\w"),
        ("foo=a\\", "foo", Equal, "a\\"),
        ("foo=\\n", "foo", Equal, "\n"),
        ("foo='bar'", "foo", Equal, "'bar'"),
        ("foo==bar", "foo", Equal, "=bar"),
        ("foo=!=bar", "foo", Equal, "!=bar"),
        ("foo=\"a\nb\"", "foo", Equal, "a\nb"),
        ("foo=bar}", "foo", Equal, "bar"),
        ("{foo=bar", "foo", Equal, "bar"),
        // Both read it, and differ: the older one wins.
        ("foo=\"\\t\"", "foo", Equal, "\\t"),
        ("foo=~\"a\\x62\"", "foo", Match, "a\\x62"),
    ] {
        assert_eq!(one(input), Ok((name.to_owned(), operator, value.to_owned())), "{input:?}");
    }
}

#[test]
fn several_matchers_in_one_text_are_all_read() {
    for input in ["foo=bar,bar!=baz", "{foo=\"bar\",bar!=\"baz\"}", " foo = bar, bar != \"baz\" ,"] {
        let read: Vec<String> = parse(input).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(read, ["foo=\"bar\"", "bar!=\"baz\""], "{input:?}");
    }
    assert_eq!(parse("\"a b\"=c").unwrap()[0].to_string(), "\"a b\"=\"c\"");
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (input, says) in [
        ("", "no matchers"),
        ("  ", "no matchers"),
        ("{}", "no matchers"),
        (",", "0:1: unexpected ,: expected label name"),
        ("{,}", "1:2: unexpected ,: expected label name"),
        ("{", "0:1: end of input: expected close brace"),
        ("}", "0:1: }: expected opening brace"),
        ("{}}", "2:3: }: expected end of input"),
        ("foo", "0:3: end of input: expected an operator"),
        ("=bar", "0:1: unexpected =: expected label name"),
        ("\"foo\"=", "0:6: end of input: expected label value"),
        ("{foo=:\"bar\"}", "6:11: unexpected \"bar\": expected a comma or close brace"),
        ("\"foo\"=~\"\\d+\"", "7:12: \"\\d+\": invalid input"),
        ("{\"foo\"=\"\\xf0\\x9f\"}", "7:17: \"\\xf0\\x9f\": invalid input"),
        ("\"foo\"=\"\\ud800\"", "6:14: \"\\ud800\": invalid input"),
        ("\"foo\"=\"\\'\"", "6:10: \"\\'\": invalid input"),
        ("\"foo\"=\"\\400\"", "6:12: \"\\400\": invalid input"),
        ("\"foo\"=\"\\x+1\"", "6:12: \"\\x+1\": invalid input"),
        ("\"foo", "0:4: \"foo: missing end \""),
        ("foo!bar", "3:4: !: expected one of '=~'"),
        ("foo~bar", "3:4: ~: invalid input"),
        ("`foo`=bar", "0:1: `: invalid input"),
        ("1foo=\"a\"b", "8:9: unexpected b: expected a comma or close brace"),
        ("a=b,,c=d", "4:5: unexpected ,: expected label name"),
        ("foo=\"a\"b\"", "7:8: unexpected b: expected a comma or close brace"),
        ("foo=~\"(\"", "regular expression \"(\": missing closing )"),
        ("foo=~\"(?<!a)b\"", "regular expression \"(?<!a)b\": this group syntax is not supported"),
        ("foo=~(a)\\1", "regular expression \"(a)\\\\1\": backreferences are not supported"),
        ("foo=~a**", "regular expression \"a**\": one repetition operator cannot follow another"),
        ("foo=~\"a{1001}\"", "regular expression \"a{1001}\": a repeat count is above 1000"),
        (
            "foo=~\"((\\\\pL{100}){100}){100}\"",
            "regular expression \"((\\\\pL{100}){100}){100}\": needs more than 1048576 bytes",
        ),
        ("foo=~\"[z-a]\"", "regular expression \"[z-a]\": "),
        ("foo=~\"[[:nope:]]\"", "regular expression \"[[:nope:]]\": there is no such POSIX class"),
        ("foo=~\"(?x)a\"", "regular expression \"(?x)a\": this group syntax is not supported"),
        ("foo=~*", "regular expression \"*\": "),
    ] {
        let error = parse(input).unwrap_err().to_string();
        assert!(error.starts_with(says), "{input:?}: {error}");
    }
    assert_eq!(parse(&"a".repeat(MATCHERS_LEN_MAX + 1)), Err(MatcherError::TooLong));
    assert!(parse(&format!("a=~\"{}\"", "(".repeat(4000))).is_err());
}

#[test]
fn groups_of_a_regular_expression_are_nested_to_a_bound() {
    let nested = |depth: usize| re2::compile(&format!("{}a{}", "(".repeat(depth), ")".repeat(depth)));
    let deepest = (1..200).take_while(|depth| nested(*depth).is_ok()).count();
    // The expression around it, which holds it at both ends, is a part of it.
    assert!((60..=64).contains(&deepest), "{deepest}");
    assert!(nested(deepest + 1).unwrap_err().to_string().contains("nest"));
}

fn matches(matcher: &str, labels: &[(&str, &str)]) -> bool {
    let labels: BTreeMap<String, String> =
        labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    parse(matcher).unwrap().iter().all(|matcher| matcher.matches(&labels))
}

#[test]
fn a_missing_label_is_the_empty_text() {
    for (matcher, present, missing, empty) in [
        ("a=\"x\"", true, false, false),
        ("a!=\"x\"", false, true, true),
        ("a=\"\"", false, true, true),
        ("a!=\"\"", true, false, false),
        ("a=~\"x|y\"", true, false, false),
        ("a!~\"x|y\"", false, true, true),
        ("a=~\".*\"", true, true, true),
        ("a=~\".+\"", true, false, false),
        ("a=~\"\"", false, true, true),
    ] {
        let found = (matches(matcher, &[("a", "x")]), matches(matcher, &[("b", "x")]), matches(matcher, &[("a", "")]));
        assert_eq!(found, (present, missing, empty), "{matcher}");
    }
}

/// Each line is what Go's `regexp` says of `^(?:pattern)$`.
#[test]
fn regular_expressions_are_gos() {
    for (pattern, yes, no) in [
        ("ab", vec!["ab"], vec!["abc", "xab", "ab\n", ""]),
        ("a|b", vec!["a", "b"], vec!["ab", "ax", "xb"]),
        (".", vec!["x", "ü", "🙂"], vec!["", "\n", "ab"]),
        ("(?s).", vec!["\n"], vec![""]),
        (r"\d+", vec!["123"], vec!["١٢", "a"]),
        (r"\w+", vec!["aZ_9"], vec!["ü", "-"]),
        (r"\W", vec!["ü", "-"], vec!["a"]),
        (r"\s", vec![" ", "\t"], vec!["\u{a0}", "\u{b}"]),
        (r"[\w-]+", vec!["a-b"], vec!["a.b"]),
        (r"[^\w]", vec!["-", "ü"], vec!["a"]),
        (r"[\D]", vec!["a"], vec!["1"]),
        (r"[[a]+", vec!["[a"], vec!["b"]),
        (r"[a&&b]+", vec!["a&b"], vec!["c"]),
        (r"[a~~b]+", vec!["~"], vec!["c"]),
        (r"[]a]+", vec!["]a"], vec!["b"]),
        (r"[^]a]", vec!["b"], vec!["]"]),
        (r"[a-]+", vec!["a-"], vec!["b"]),
        (r"[-a]+", vec!["a-"], vec!["b"]),
        (r"[[:alpha:]]+", vec!["ab"], vec!["1", "ü"]),
        (r"[[:^alpha:]]+", vec!["12"], vec!["a"]),
        (r"a{2}", vec!["aa"], vec!["a"]),
        (r"a{,2}", vec!["a{,2}"], vec!["a", "aa"]),
        (r"a{", vec!["a{"], vec!["a"]),
        (r"x}", vec!["x}"], vec!["x"]),
        (r"\Qa.b*\E+", vec!["a.b*", "a.b**"], vec!["axb"]),
        (r"\<a\>", vec!["<a>"], vec!["a"]),
        (r"\_\-\.\/", vec!["_-./"], vec!["_-x/"]),
        (r"\x41\x{1F642}\101\0", vec!["A🙂A\u{0}"], vec!["A"]),
        (r"\p{Greek}\pL\P{L}\p{^L}", vec!["αa1-"], vec!["aa11"]),
        ("(?i)AbC", vec!["aBc"], vec!["abd"]),
        ("(?i:a)b", vec!["Ab"], vec!["AB"]),
        ("(?P<n>a)(?<m>b)(?P<1>c)", vec!["abc"], vec!["ab"]),
        ("a*?b??", vec!["aab", ""], vec!["c"]),
        (r".*\bfoo\b.*", vec!["a foo b"], vec!["afoo"]),
        ("", vec![""], vec!["a"]),
        ("a||b", vec!["", "a"], vec!["ab"]),
        ("^a$", vec!["a"], vec!["ba"]),
    ] {
        let regex = re2::compile(pattern).unwrap_or_else(|e| panic!("{e}"));
        for text in yes {
            assert!(regex.is_match(text), "{pattern} must match {text:?}");
        }
        for text in no {
            assert!(!regex.is_match(text), "{pattern} must not match {text:?}");
        }
    }
    for pattern in [
        r"\u0041", r"\Z", r"\C", r"\h", r"\8", "a++", "a{2}{3}", "a**", "a*??", ")", "(", "[a", r"\", "(?u)a", r"\x4",
        r"\p", "(?P<>a)",
    ] {
        assert!(re2::compile(pattern).is_err(), "{pattern} was accepted");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[\\x00-\\x7fäß🙂]{0,40}", regex in "[a-c(){}\\[\\]|*+?.^$\\\\dwsQEpx0-9:,<>!=-]{0,30}") {
        let _ = parse(&text);
        let _ = parse(&format!("a=~{regex}"));
        let _ = re2::compile(&regex);
    }

    #[test]
    fn any_name_and_value_can_be_written_in_quotes(name in "[a-zä. ]{1,10}", value in "[\\x20-\\x7eäß🙂\\n]{0,20}") {
        let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"));
        let read = parse(&format!("{}={}", quote(&name), quote(&value))).unwrap();
        proptest::prop_assert_eq!((read[0].name(), read[0].value()), (name.as_str(), value.as_str()));
    }
}

#[test]
fn a_matcher_is_shown_as_alertmanager_writes_it() {
    for (input, shown) in [
        ("foo = bar baz", r#"foo="bar baz""#),
        ("\"a b\"!=\"ü\"", r#""a b"!="ü""#),
        ("\"\"=x", r#"""="x""#),
        ("foo=~'a\\\\d'", r#"foo=~"'a\\d'""#),
        ("foo=\"a\nb\tc\"", r#"foo="a\nb\tc""#),
        ("foo=\"\u{0}\u{7f}\u{202e}\u{e0001}\"", r#"foo="\x00\x7f\u202e\U000e0001""#),
    ] {
        let matchers = parse(input).unwrap_or_else(|error| panic!("{input}: {error}"));
        assert_eq!(matchers[0].to_string(), shown, "{input}");
    }
}

/// Name, operator and value of a matcher.
type Told = (String, String, String);

/// Texts put together at random from what the grammar is made of, as Alertmanager 0.31.1 reads its configuration
/// (`matcher/compat.FallbackMatchersParser`, which a small Go program asked): none, or name, operator and value of each matcher.
#[test]
fn texts_at_random_mean_what_they_mean_in_alertmanager() {
    let mut differ = Vec::new();
    for line in include_str!("alertmanager.jsonl").lines() {
        let (text, wanted): (String, Option<Vec<Told>>) = serde_json::from_str(line).unwrap();
        // Only here at least one is needed.
        let wanted = wanted.filter(|matchers| !matchers.is_empty());
        let sign = |operator| match operator {
            Operator::Equal => "=",
            Operator::NotEqual => "!=",
            Operator::Match => "=~",
            Operator::NotMatch => "!~",
        };
        let read = parse(&text).ok().map(|matchers| {
            let told = |m: &Matcher| (m.name().to_owned(), sign(m.operator()).to_owned(), m.value().to_owned());
            matchers.iter().map(told).collect::<Vec<_>>()
        });
        if read != wanted {
            differ.push(format!("{text:?}: {read:?}, in Alertmanager {wanted:?}"));
        }
    }
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
}
