use proptest::prelude::*;

use super::*;
use crate::desired::{DataItem, SetHead, SetKind};
use crate::wire::{ToAgent, ToServer};

fn body() -> Body {
    let data = [("a".to_owned(), b"1".to_vec())].into();
    Body::Data(DataItem { secret: false, namespace: "ns".into(), name: "cm".into(), data })
}

/// Formats that ledgers and peers of released versions hold: these bytes may never change meaning.
#[test]
fn golden_bytes() {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(&encode(&body())), "010100026e7302636d01016101".to_owned() + "31");
    let end = ToAgent::End { set: SetKind::Shared };
    assert_eq!(hex(&frame(&end)), "03000000010501");
    let persisted = ToServer::Persisted { set: SetKind::Node, to: SetHead::default() };
    assert_eq!(hex(&encode(&persisted)), format!("0102000000{}", "00".repeat(16)));
}

#[test]
fn another_format_is_named() {
    let mut bytes = encode(&body());
    bytes[0] = 2;
    assert_eq!(decode_body(&bytes), Err(CodecError::Version(2)));
    assert_eq!(decode::<u8>(&[]), Err(CodecError::Malformed));
}

#[test]
fn an_unknown_variant_is_the_unknown_arm() {
    assert_eq!(decode_evolving::<ToAgent>(&[VERSION, 200, 1, 9, 9]), Ok(ToAgent::Unknown(200)));
    assert_eq!(decode_body(&[VERSION, 77]), Err(CodecError::Unknown(77)));
}

#[test]
fn the_known_variants_are_counted_right() {
    fn check<T: Evolving + PartialEq + std::fmt::Debug>(last: &T) {
        assert_eq!(u32::from(encode(last)[1]) + 1, T::KNOWN, "{last:?} is the last variant");
    }
    check(&ToAgent::Renewed(crate::wire::Renewed { certificate: vec![], cas: vec![] }));
    check(&ToServer::Renew { csr: vec![] });
    check(&crate::wire::Opened::Refused(String::new()));
    check(&crate::wire::Open::Exec(Default::default()));
    check(&crate::wire::ExecIn::Resize { width: 1, height: 1 });
    check(&crate::wire::ExecOut::Failed(String::new()));
}

#[test]
fn frames_are_cut_wherever_the_stream_breaks() {
    let messages = [ToAgent::End { set: SetKind::Node }, ToAgent::Reported { sequence: 300 }];
    let stream: Vec<u8> = messages.iter().flat_map(frame).collect();
    for step in 1..stream.len() {
        let mut frames = Frames::new(64);
        let mut got = Vec::new();
        for part in stream.chunks(step) {
            frames.push(part);
            while let Some(bytes) = frames.next_frame().unwrap() {
                got.push(decode_evolving::<ToAgent>(&bytes).unwrap());
            }
        }
        assert_eq!(got, messages);
        assert_eq!(frames.buffer.capacity(), 0, "an idle stream holds no buffer");
    }
}

#[test]
fn a_frame_over_its_limit_is_refused_by_its_head() {
    let mut frames = Frames::new(8);
    frames.push(&9u32.to_le_bytes());
    assert_eq!(frames.next_frame(), Err(CodecError::TooLong { bytes: 9, limit: 8 }));
    let mut empty = Frames::new(8);
    empty.push(&[0; 4]);
    assert_eq!(empty.next_frame(), Err(CodecError::Malformed));
}

/// What a hostile length would allocate is bounded by the decoder, not by the length.
#[test]
fn a_claimed_length_allocates_nothing() {
    let huge = [VERSION, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    assert_eq!(decode_evolving::<ToServer>(&huge), Err(CodecError::Malformed));
    assert_eq!(decode_body(&huge), Err(CodecError::Malformed));
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let mut versioned = bytes.clone();
        if let Some(first) = versioned.first_mut() { *first = VERSION; }
        for bytes in [&bytes, &versioned] {
            let _ = decode_evolving::<ToServer>(bytes);
            let _ = decode_evolving::<ToAgent>(bytes);
            let _ = decode_evolving::<crate::wire::Open>(bytes);
            let _ = decode::<crate::wire::JoinRequest>(bytes);
            let _ = decode_body(bytes);
            let mut frames = Frames::new(256);
            frames.push(bytes);
            while let Ok(Some(_)) = frames.next_frame() {}
        }
    }

    #[test]
    fn what_is_encoded_is_decoded(name in ".{0,40}", data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let body = Body::Data(DataItem { secret: true, namespace: name.clone(), name, data: [("k".to_owned(), data)].into() });
        prop_assert_eq!(decode_body(&encode(&body)).unwrap(), body);
    }
}
