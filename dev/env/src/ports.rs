//! Free ports on loopback, outside the range that the kernel hands to outgoing connections, and who listens on one.

use std::{
    collections::HashSet,
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};

use crate::cache::cache_dir;

const FIRST: u32 = 20_000;
const LAST: u32 = 32_000;

/// A port that nothing listens on, that this process has not given out before, and that no other process of this user has given
/// out and may still need: a part takes seconds to listen, and one that is stopped comes back on its port.
pub fn free_port() -> u16 {
    static RESERVED: OnceLock<Option<File>> = OnceLock::new();
    let reserved = RESERVED.get_or_init(|| open_reservations(&cache_dir()));
    static GIVEN: OnceLock<Mutex<HashSet<u16>>> = OnceLock::new();
    let mut given = GIVEN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    // Two processes that start together begin at different places.
    let start = nanos.wrapping_add(std::process::id().wrapping_mul(7919));
    for step in 0..(LAST - FIRST) {
        let port = (FIRST + (start.wrapping_add(step.wrapping_mul(31))) % (LAST - FIRST)) as u16;
        let reserve = || reserved.as_ref().is_none_or(|file| reserve(file, port));
        if !given.contains(&port) && reserve() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
    // Everything below the ephemeral range is taken: let the kernel choose.
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_or(0, |address| address.port())
}

/// Without the file ports are still checked, only not against other processes that are about to listen.
fn open_reservations(cache: &Path) -> Option<File> {
    std::fs::create_dir_all(cache).ok()?;
    File::options().create(true).append(true).open(cache.join("ports.lock")).ok()
}

/// A lock on the byte of this number, which the kernel takes back when the process ends, however it ends. False when another has it.
fn reserve(file: &File, port: u16) -> bool {
    let byte = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: port.into(),
        l_len: 1,
        l_pid: 0,
    };
    !matches!(fcntl(file, FcntlArg::F_OFD_SETLK(&byte)), Err(Errno::EAGAIN | Errno::EACCES))
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
        let dir = tempfile::tempdir().unwrap();
        // Each has a file description of its own, as two processes have.
        let (one, two) = (open_reservations(dir.path()).unwrap(), open_reservations(dir.path()).unwrap());
        assert!(reserve(&one, 20_000) && !reserve(&two, 20_000));
        assert!(reserve(&one, 20_000) && reserve(&two, 20_001));
        drop(one);
        assert!(reserve(&two, 20_000), "the kernel takes it back when the process ends");
        let port = free_port();
        assert!(!reserve(&open_reservations(&cache_dir()).unwrap(), port));
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
