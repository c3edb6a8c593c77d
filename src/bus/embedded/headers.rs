//! A record's headers as bytes: for each its name and its value, both behind their length (u32, little endian).

use bytes::Bytes;

/// The bytes are no headers: the file is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the headers of a record are damaged")]
pub(super) struct DamagedHeaders;

pub(super) fn encode(headers: &[(String, Bytes)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(headers.iter().map(|(name, value)| name.len() + value.len() + 8).sum());
    for (name, value) in headers {
        for part in [name.as_bytes(), value] {
            // A record is at most MAX_RECORD_BYTES long.
            bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
            bytes.extend_from_slice(part);
        }
    }
    bytes
}

pub(super) fn decode(mut bytes: &[u8]) -> Result<Vec<(String, Bytes)>, DamagedHeaders> {
    let mut headers = Vec::new();
    while !bytes.is_empty() {
        let name = String::from_utf8(part(&mut bytes)?.to_vec()).map_err(|_| DamagedHeaders)?;
        headers.push((name, Bytes::copy_from_slice(part(&mut bytes)?)));
    }
    Ok(headers)
}

fn part<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], DamagedHeaders> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(DamagedHeaders)?;
    let length = u32::from_le_bytes(*length) as usize;
    let (part, rest) = rest.split_at_checked(length).ok_or(DamagedHeaders)?;
    *bytes = rest;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(headers in proptest::collection::vec((".{0,9}", proptest::collection::vec(any::<u8>(), 0..9)), 0..5)) {
            let headers: Vec<(String, Bytes)> = headers.into_iter().map(|(name, value)| (name, value.into())).collect();
            prop_assert_eq!(decode(&encode(&headers)), Ok(headers));
        }

        #[test]
        fn damaged_bytes_are_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(headers) = decode(&bytes) {
                prop_assert_eq!(encode(&headers), bytes);
            }
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_damage() {
        assert_eq!(decode(&[255, 255, 255, 255, 1]), Err(DamagedHeaders));
        assert_eq!(decode(&encode(&[("a".into(), Bytes::from_static(b"b"))])[..9]), Err(DamagedHeaders));
    }
}
