//! The system's random numbers, by the seed. The standard library asks for them once for each thread, for the order of its hash maps;
//! a history would be another one each time if they came from the system.
//!
//! The C function `getrandom` is replaced for the whole program: a thread that runs a history gets numbers of its seed, every other
//! one those of the system.
#![allow(unsafe_code)] // A function of the C library is replaced; there is no other way.

use std::{
    cell::Cell,
    ffi::{c_uint, c_void},
};

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on, on this thread.
pub(crate) fn seed(seed: u64) {
    STATE.set(Some(seed));
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn next(state: u64) -> (u64, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut out = state;
    out = (out ^ (out >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    out = (out ^ (out >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state, out ^ (out >> 31))
}

/// As getrandom(2) has it.
///
/// # Safety
///
/// `buffer` must be writable for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    let Some(mut state) = STATE.get() else {
        // SAFETY: the caller's promise is that of the system call.
        let filled = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
        return isize::try_from(filled).unwrap_or(-1);
    };
    // SAFETY: the caller promises that the buffer is writable for so many bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        let (moved, out) = next(state);
        state = moved;
        chunk.copy_from_slice(&out.to_le_bytes()[..chunk.len()]);
    }
    STATE.set(Some(state));
    isize::try_from(length).unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    fn order() -> Vec<u32> {
        (0..100).map(|n| (n, ())).collect::<HashMap<u32, ()>>().into_keys().collect()
    }

    fn seeded(seed: u64) -> Vec<u32> {
        let run = move || {
            super::seed(seed);
            order()
        };
        std::thread::spawn(run).join().unwrap()
    }

    #[test]
    fn the_order_of_a_hash_map_follows_the_seed() {
        assert_eq!(seeded(1), seeded(1));
        assert_ne!(seeded(1), seeded(2));
        assert_ne!(order(), seeded(1));
    }
}
