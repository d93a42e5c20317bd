use proptest::prelude::*;
use rustix::io::Errno;

use super::*;

/// What is built is what is read, nesting and padding included.
#[test]
fn messages_are_read_as_they_were_written() {
    let mut message = Message::new(7, NLM_F_ACK);
    message.raw(&[1, 2, 3, 4]);
    message.attr(1, b"abc").attr_u32(2, 42).attr_str(3, "eth0").nest(4, |m| _ = m.attr_be32(1, 9));
    message.begin(8, 0, 5);
    let bytes = message.finish();
    let read: Vec<_> = messages(&bytes).collect();
    let [(7, first_flags, 0, body), (8, NLM_F_REQUEST, 5, b"")] = read[..] else { panic!("{read:?}") };
    assert_eq!(first_flags, NLM_F_ACK | NLM_F_REQUEST);
    let answer = Answer { kind: 7, body: body.to_vec() };
    let attrs = answer.attrs(4);
    assert_eq!(attrs.find(1), Some(&b"abc"[..]));
    assert_eq!(attrs.find_u32(2), Some(42));
    assert_eq!(attrs.find(3), Some(&b"eth0\0"[..]));
    assert_eq!(Attrs::of(attrs.find(4).expect("nested")).find(1), Some(&[0, 0, 0, 9][..]));
    assert_eq!(attrs.find(5), None);
}

#[test]
fn errors_carry_the_kernels_words() {
    let errno = (-Errno::EXIST.raw_os_error()).to_ne_bytes();
    let mut plain = errno.to_vec();
    plain.extend([0; HEADER]);
    let error = acknowledgement(0, &plain).expect_err("an error");
    assert_eq!((error.errno, error.message), (Errno::EXIST, None));
    let mut told = Message::default();
    told.raw(&plain).attr_str(NLMSGERR_ATTR_MSG, "it is there");
    let error = acknowledgement(NLM_F_CAPPED | NLM_F_ACK_TLVS, &told.into_fragment()).expect_err("an error");
    assert_eq!(error.message.as_deref(), Some("it is there"));
    assert!(acknowledgement(0, &[0; 20]).is_ok());
    assert!(acknowledgement(0, &[]).is_err());
}

proptest! {
    /// Whatever arrives is read to an end.
    #[test]
    fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for (_, flags, _, body) in messages(&bytes) {
            let _ = acknowledgement(flags, body);
            prop_assert!(Attrs::of(body).count() <= body.len());
        }
        prop_assert!(Attrs::of(&bytes).count() <= bytes.len());
    }
}
