//! XXH64, the checksum of the journal: fast on small boards without special instructions.
//!
//! Specification: <https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>.

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

fn round(accumulator: u64, lane: u64) -> u64 {
    accumulator.wrapping_add(lane.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1)
}

fn merge(accumulator: u64, value: u64) -> u64 {
    (accumulator ^ round(0, value)).wrapping_mul(P1).wrapping_add(P4)
}

/// The XXH64 of `data`.
pub(crate) fn xxh64(seed: u64, data: &[u8]) -> u64 {
    let (stripes, rest) = data.as_chunks::<32>();
    let mut hash = if stripes.is_empty() {
        seed.wrapping_add(P5)
    } else {
        let start = [seed.wrapping_add(P1).wrapping_add(P2), seed.wrapping_add(P2), seed, seed.wrapping_sub(P1)];
        converge(stripes.iter().fold(start, |state, stripe| {
            let (lanes, _) = stripe.as_chunks::<8>();
            std::array::from_fn(|lane| round(state[lane], u64::from_le_bytes(lanes[lane])))
        }))
    };
    hash = hash.wrapping_add(data.len() as u64);
    let (lanes, rest) = rest.as_chunks::<8>();
    for lane in lanes {
        hash ^= round(0, u64::from_le_bytes(*lane));
        hash = hash.rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
    }
    let (lanes, rest) = rest.as_chunks::<4>();
    for lane in lanes {
        hash ^= u64::from(u32::from_le_bytes(*lane)).wrapping_mul(P1);
        hash = hash.rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
    }
    for byte in rest {
        hash ^= u64::from(*byte).wrapping_mul(P5);
        hash = hash.rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

fn converge(state: [u64; 4]) -> u64 {
    let turns = [1, 7, 12, 18];
    let sum = state.iter().zip(turns).fold(0u64, |sum, (lane, turn)| sum.wrapping_add(lane.rotate_left(turn)));
    state.into_iter().fold(sum, merge)
}

#[cfg(test)]
mod tests {
    use super::xxh64;

    #[test]
    fn published_values() {
        assert_eq!(xxh64(0, b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(xxh64(0, b"a"), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(xxh64(0, b"abc"), 0x44BC_2CF5_AD77_0999);
        assert_eq!(xxh64(0, b"Nobody inspects the spammish repetition"), 0xFBCE_A83C_8A37_8BF1);
    }

    #[test]
    fn every_byte_and_the_seed_matter() {
        let data: Vec<u8> = (0..100).collect();
        let whole = xxh64(1, &data);
        assert_ne!(whole, xxh64(2, &data));
        for index in 0..data.len() {
            let mut changed = data.clone();
            changed[index] ^= 1;
            assert_ne!(xxh64(1, &changed), whole, "byte {index}");
            assert_ne!(xxh64(1, &data[..index]), whole);
        }
    }
}
