//! How a broker is written: `HOST:PORT`.

use std::net::Ipv6Addr;

/// The longest name of a host (RFC 1035, section 2.3.4).
const HOST_MAX: usize = 253;

/// What is wrong with it, and how it is written.
pub(super) fn check_broker(text: &str) -> Result<(), String> {
    let no = |what: &str| Err(format!("{text:?} is no HOST:PORT{what}"));
    if let Some((protocol, _)) = text.split_once("://") {
        let protocol = protocol.to_ascii_uppercase();
        return no(&format!(": leave the protocol out, and say it with --kafka-config security.protocol={protocol}"));
    }
    let Some((host, port)) = text.rsplit_once(':') else { return no(", like kafka:9092") };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) || !matches!(port.parse::<u16>(), Ok(1..)) {
        return no(": its port is not from 1 to 65535");
    }
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return if address.parse::<Ipv6Addr>().is_ok() { Ok(()) } else { no(": in brackets stands an IPv6 address") };
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return no(": an IPv6 address stands in brackets, like [::1]:9092");
    }
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    // A dot may end a name: it is looked up as it is.
    let is_host = host.len() <= HOST_MAX && host.strip_suffix('.').unwrap_or(host).split('.').all(is_label);
    if is_host { Ok(()) } else { no(": its host is no name and no address") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_with_a_port_are_brokers() {
        for broker in ["kafka:9092", "k-0.kafka.svc.cluster.local.:1", "10.0.0.1:65535", "[::1]:9092", "my_kafka:9092"]
        {
            assert_eq!(check_broker(broker), Ok(()), "{broker}");
        }
    }

    #[test]
    fn what_is_none_is_told_how_it_is_written() {
        for (broker, says) in [
            ("", "like kafka:9092"),
            ("kafka", "like kafka:9092"),
            (":9092", "no name"),
            ("kafka:", "port"),
            ("kafka:0", "port"),
            ("kafka:65536", "port"),
            ("kafka:+1", "port"),
            ("kafka: 9092", "port"),
            (" kafka:9092", "no name"),
            ("kafka:9092:9093", "no name"),
            ("kaf ka:9092", "no name"),
            ("kafka..local:9092", "no name"),
            ("kafka;rm:9092", "no name"),
            ("::1:9092", "in brackets"),
            ("[kafka]:9092", "in brackets"),
            ("sasl_ssl://kafka:9092", "security.protocol=SASL_SSL"),
            (&format!("{}:9092", "k".repeat(254)), "no name"),
        ] {
            let error = check_broker(broker).unwrap_err();
            assert!(error.contains("is no HOST:PORT") && error.contains(says), "{broker}: {error}");
        }
    }
}
