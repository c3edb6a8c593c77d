//! Free ports on loopback, outside the range that the kernel hands to outgoing connections, and who listens on one.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::{linux::net::SocketAddrExt as _, unix::net},
    sync::{Mutex, OnceLock, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

const FIRST: u32 = 20_000;
const LAST: u32 = 32_000;

/// A port that nothing listens on, that this process has not given out before, and that no other process of this machine has given
/// out and may still need: a part takes seconds to listen, and one that is stopped comes back on its port.
pub fn free_port() -> u16 {
    static GIVEN: OnceLock<Mutex<HashMap<u16, Reservation>>> = OnceLock::new();
    let mut given = GIVEN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    // Two processes that start together begin at different places.
    let start = nanos.wrapping_add(std::process::id().wrapping_mul(7919));
    for step in 0..(LAST - FIRST) {
        let port = (FIRST + (start.wrapping_add(step.wrapping_mul(31))) % (LAST - FIRST)) as u16;
        if !given.contains_key(&port)
            && let Some(reservation) = Reservation::of(port)
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        {
            given.insert(port, reservation);
            return port;
        }
    }
    // Everything below the ephemeral range is taken: let the kernel choose.
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_or(0, |address| address.port())
}

/// Tells other processes that a port is given out, for as long as it is held: a name in Linux's abstract namespace of sockets (unix(7)),
/// which the kernel takes back when the process ends, however it ends. Where there is none, ports are still checked, only not against
/// processes that are about to listen.
struct Reservation(#[expect(dead_code, reason = "held, not used")] Option<net::UnixDatagram>);

impl Reservation {
    /// None when it is another's.
    fn of(port: u16) -> Option<Self> {
        let address = net::SocketAddr::from_abstract_name(format!("eventpulse-port-{port}"));
        match address.and_then(|address| net::UnixDatagram::bind_addr(&address)) {
            Ok(socket) => Some(Self(Some(socket))),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            Err(_) => Some(Self(None)),
        }
    }
}

/// Does this process listen on this port? That somebody does is not enough when several environments start at once.
pub(crate) fn listens(pid: u32, port: u16) -> bool {
    listeners(pid).iter().any(|address| address.port() == port)
}

/// Where this process takes connections: the address and port of each of its listening TCP sockets.
pub fn listeners(pid: u32) -> Vec<SocketAddr> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    let own: HashSet<String> = targets.filter_map(|target| target.into_os_string().into_string().ok()).collect();
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).ok())
        .flat_map(|table| table.lines().filter_map(listening_socket).collect::<Vec<_>>())
        .filter_map(|(address, socket)| own.contains(&socket).then_some(address))
        .collect()
}

/// A line of `/proc/net/tcp` (proc(5)): `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode`, in
/// hexadecimal; state 0A is LISTEN.
fn listening_socket(line: &str) -> Option<(SocketAddr, String)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.rsplit_once(':')?;
    let local = SocketAddr::new(ip_address(address)?, u16::from_str_radix(port, 16).ok()?);
    (*fields.get(3)? == "0A").then(|| fields.get(9).map(|inode| (local, format!("socket:[{inode}]"))))?
}

/// As the kernel prints it: words of 32 bits, each in the byte order of the machine. Java's sockets are IPv6 ones that hold IPv4.
fn ip_address(text: &str) -> Option<IpAddr> {
    let words = (0..text.len() / 8).map(|i| u32::from_str_radix(text.get(i * 8..i * 8 + 8)?, 16).ok());
    let bytes: Vec<u8> = words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let address = <[u8; 4]>::try_from(bytes.as_slice()).map(|bytes| IpAddr::from(Ipv4Addr::from(bytes)));
    let address = address.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(|b| IpAddr::from(Ipv6Addr::from(b))));
    Some(address.ok()?.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_another_process_was_given_is_not_free() {
        assert!(Reservation::of(free_port()).is_none());
        // Of no process that runs beside this one, and none that is given out.
        let port = LAST as u16 + (std::process::id() % 10_000) as u16;
        let held = Reservation::of(port).unwrap();
        assert!(Reservation::of(port).is_none());
        drop(held);
        assert!(Reservation::of(port).is_some(), "the kernel takes it back with the socket");
    }

    #[test]
    fn a_listener_is_told_from_somebody_elses() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(listens(std::process::id(), port));
        let mut other = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        assert!(!listens(other.id(), port));
        other.kill().unwrap();
        other.wait().unwrap();
        drop(listener);
        assert!(!listens(std::process::id(), port));
    }

    #[test]
    fn a_listener_is_seen_with_the_address_that_it_is_bound_to() {
        for bound in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            // A machine may have no IPv6.
            let Ok(listener) = TcpListener::bind(bound) else { continue };
            let address = listener.local_addr().unwrap();
            assert!(listeners(std::process::id()).contains(&address), "{address}");
        }
        // ::ffff:127.0.0.1, as a little-endian kernel prints it.
        if cfg!(target_endian = "little") {
            assert_eq!(ip_address("0000000000000000FFFF00000100007F"), Some(Ipv4Addr::LOCALHOST.into()));
        }
        assert_eq!((ip_address(""), ip_address("0100007"), ip_address("x100007F")), (None, None, None));
    }

    #[test]
    fn no_port_is_given_twice() {
        let ports: HashSet<u16> = (0..50).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 50);
    }
}
