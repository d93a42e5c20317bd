use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { streams: 4, keep_alive: 25_000, idle: 40_000 };

struct Pair {
    a: Mux,
    b: Mux,
}

impl Pair {
    fn new() -> Pair {
        let now = Millis(0);
        Pair { a: Mux::new(Side::Dialler, LIMITS, now), b: Mux::new(Side::Listener, LIMITS, now) }
    }

    /// Carries bytes both ways, cut as `cut` says, until nobody has more to say.
    fn settle(&mut self, cut: usize) {
        let pour = |from: &mut Mux, to: &mut Mux| {
            let mut any = false;
            while let Some(bytes) = from.transmit() {
                any = true;
                bytes.chunks(cut.max(1)).for_each(|part| to.receive(part, Millis(1)));
            }
            any
        };
        while pour(&mut self.a, &mut self.b) | pour(&mut self.b, &mut self.a) {}
    }
}

fn drain(mux: &mut Mux, id: u32) -> (Vec<u8>, Result<Read, Broken>) {
    let (mut all, mut part) = (Vec::new(), vec![0; 5000]);
    loop {
        match mux.read(id, &mut part) {
            Ok(Read::Bytes(length)) => all.extend(&part[..length]),
            other => return (all, other),
        }
    }
}

#[test]
fn a_stream_carries_both_ways_and_is_forgotten_at_its_end() {
    let mut pair = Pair::new();
    let id = pair.a.open();
    assert_eq!(pair.a.write(id, b"question"), Ok(8));
    pair.a.finish(id);
    pair.settle(3);
    assert_eq!(pair.b.accept(), Some(id));
    assert_eq!(drain(&mut pair.b, id), (b"question".to_vec(), Ok(Read::End)));
    pair.b.write(id, b"answer").unwrap();
    pair.b.finish(id);
    pair.b.stop(id);
    pair.settle(1);
    assert_eq!(drain(&mut pair.a, id), (b"answer".to_vec(), Ok(Read::End)));
    pair.a.stop(id);
    pair.settle(1);
    assert!(pair.a.streams.is_empty() && pair.b.streams.is_empty());
    assert_eq!((pair.a.end(), pair.b.end()), (None, None));
}

#[test]
fn a_reader_that_does_not_read_holds_up_its_writer_and_nobody_else() {
    let mut pair = Pair::new();
    let (bulk, control) = (pair.a.open(), pair.a.open());
    pair.a.set_priority(control, 10);
    let mut sent = 0;
    loop {
        let taken = pair.a.write(bulk, &[7; 100_000]).unwrap();
        pair.settle(usize::MAX);
        sent += taken;
        if taken == 0 {
            break;
        }
    }
    assert_eq!(sent, WINDOW + SEND_BUFFER);
    pair.a.write(control, b"urgent").unwrap();
    pair.settle(usize::MAX);
    assert_eq!(drain(&mut pair.b, control).0, b"urgent");
    assert_eq!(drain(&mut pair.b, bulk).0.len(), WINDOW);
    pair.settle(usize::MAX);
    assert_eq!(drain(&mut pair.b, bulk).0.len(), SEND_BUFFER, "credit came back");
}

#[test]
fn what_is_urgent_goes_out_before_what_waits_and_equals_take_turns() {
    let mut pair = Pair::new();
    let (x, y, control) = (pair.a.open(), pair.a.open(), pair.a.open());
    pair.settle(usize::MAX);
    pair.a.write(x, &[1; 3 * MAX_DATA]).unwrap();
    pair.a.write(y, &[2; 3 * MAX_DATA]).unwrap();
    pair.a.transmit().unwrap();
    pair.a.set_priority(control, 10);
    pair.a.write(control, &[3]).unwrap();
    let order: Vec<u8> = std::iter::from_fn(|| pair.a.transmit()).map(|frame| *frame.last().unwrap()).collect();
    assert_eq!(order, [3, 2, 1, 2, 1, 2]);
}

#[test]
fn stops_and_resets_are_told() {
    let mut pair = Pair::new();
    let id = pair.a.open();
    pair.a.write(id, &[0; 1000]).unwrap();
    pair.settle(usize::MAX);
    pair.b.stop(id);
    pair.settle(usize::MAX);
    assert_eq!(pair.a.write(id, &[0]), Err(Broken::Stopped));
    assert!(pair.a.is_sent(id));
    pair.b.reset(id);
    pair.settle(usize::MAX);
    assert_eq!(pair.a.read(id, &mut [0; 9]), Err(Broken::Reset));
    pair.a.stop(id);
    pair.settle(usize::MAX);
    assert!(pair.a.streams.is_empty() && pair.b.streams.is_empty());
}

#[test]
fn a_peer_beyond_its_bounds_is_cut_off() {
    let check = |frames: &[(Kind, u32, Vec<u8>)], expect: &str| {
        let mut mux = Mux::new(Side::Listener, LIMITS, Millis(0));
        frames.iter().for_each(|(kind, id, payload)| mux.receive(&Frame::bytes(*kind, *id, payload), Millis(0)));
        assert!(matches!(mux.end(), Some(End::Violation(what)) if *what == expect), "{:?}, not {expect}", mux.end());
        assert!(mux.transmit().is_some(), "the peer is told");
        assert!(mux.transmit().is_none());
    };
    let open = |id| (Kind::Open, id, vec![]);
    check(&[(Kind::Data, 1, vec![1])], "a frame of a stream that nobody opened");
    check(&[open(3)], "streams out of order");
    check(&[open(1), open(3), open(5), open(7), open(9)], "too many streams");
    check(&[open(1), (Kind::Fin, 1, vec![]), (Kind::Data, 1, vec![1])], "data after the end of a stream");
    check(
        &[open(1), (Kind::Data, 1, vec![0; 65_536]), (Kind::Data, 1, vec![0; 65_536]), (Kind::Data, 1, vec![0])],
        "more than the window",
    );
    check(&[open(1), (Kind::Credit, 1, vec![1, 0, 0, 0])], "credit for what was not sent");
    check(&[open(1), (Kind::Data, 1, vec![0; 65_537])], "a frame that is too long");
}

#[test]
fn silence_is_asked_about_and_then_believed() {
    let mut mux = Mux::new(Side::Dialler, LIMITS, Millis(0));
    assert_eq!(mux.poll_timeout(), Millis(25_000));
    mux.handle_timeout(Millis(25_000));
    assert_eq!(mux.transmit(), Some(Frame::bytes(Kind::Ping, 0, &[])));
    assert_eq!(mux.poll_timeout(), Millis(40_000));
    let mut peer = Mux::new(Side::Listener, LIMITS, Millis(0));
    peer.receive(&Frame::bytes(Kind::Ping, 0, &[]), Millis(0));
    mux.receive(&peer.transmit().unwrap(), Millis(26_000));
    assert_eq!(mux.poll_timeout(), Millis(51_000));
    mux.handle_timeout(Millis(66_000));
    assert_eq!(mux.end(), Some(&End::Silent));
}

#[test]
fn a_close_says_why() {
    let mut pair = Pair::new();
    pair.a.close(7, "enough");
    pair.settle(2);
    assert_eq!(pair.b.end(), Some(&End::Closed { code: 7, reason: "enough".into() }));
}

proptest! {
    #[test]
    fn garbage_ends_the_connection_at_worst(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 1usize..50) {
        let mut mux = Mux::new(Side::Listener, LIMITS, Millis(0));
        bytes.chunks(cut).for_each(|part| mux.receive(part, Millis(0)));
        while mux.transmit().is_some() {}
    }

    #[test]
    fn whatever_is_written_arrives_in_order(
        steps in proptest::collection::vec((0usize..3, 1usize..20_000, any::<bool>()), 1..80),
        cut in 1usize..9_000,
    ) {
        let mut pair = Pair::new();
        let ids: Vec<u32> = (0..3).map(|_| pair.a.open()).collect();
        let (mut wrote, mut got) = (vec![Vec::<u8>::new(); 3], vec![Vec::<u8>::new(); 3]);
        for (at, (which, length, reads)) in steps.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 31 + at) as u8).collect();
            let taken = pair.a.write(ids[which], &bytes).unwrap();
            wrote[which].extend(&bytes[..taken]);
            pair.settle(cut);
            if reads {
                got[which].extend(drain(&mut pair.b, ids[which]).0);
            }
        }
        for which in 0..3 {
            pair.a.finish(ids[which]);
            loop {
                pair.settle(cut);
                let (more, end) = drain(&mut pair.b, ids[which]);
                got[which].extend(more);
                if end == Ok(Read::End) {
                    break;
                }
            }
        }
        prop_assert_eq!(wrote, got);
        prop_assert_eq!(pair.b.end(), None);
    }
}
