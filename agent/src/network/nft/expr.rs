//! The expressions that rules are made of, each as the kernel reads it.
//!
//! Registers are 32-bit words, named by their index from 0; a value of several words takes as many
//! registers in a row.

use std::net::Ipv4Addr;

use coracle_shared::desired::Cidr;

use super::{DATA_VALUE, LIST_ELEMENT, Verdict};
use crate::network::netlink::Message;

const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// A part of a packet's network or transport header.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    base: u32,
    offset: u32,
    length: u32,
}

pub(crate) const SOURCE: Field = Field { base: 1, offset: 12, length: 4 };
pub(crate) const DESTINATION: Field = Field { base: 1, offset: 16, length: 4 };
/// The destination port of TCP, UDP and SCTP alike.
pub(crate) const PORT: Field = Field { base: 2, offset: 2, length: 2 };

/// What is known of a packet beside its bytes (`enum nft_meta_keys`).
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Meta {
    InputName = 6,
    Protocol = 16,
}

/// How a comparison comes out (`enum nft_cmp_ops`).
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Is {
    Equal = 0,
    NotEqual = 1,
}

/// `IPS_DST_NAT`: the connection's destination was translated.
const DESTINATION_TRANSLATED: u32 = 0x20;

/// The verdict register.
const VERDICT: u32 = 0;

/// Number of a register in messages. The first one has the number of the 16-byte register that starts
/// there, as the `nft` program writes and expects it.
fn register(index: u32) -> u32 {
    if index == 0 { 1 } else { 8 + index }
}

/// A rule in the making: expressions in order. All conditions have to hold.
#[derive(Default)]
pub(crate) struct Rule {
    expressions: Message,
}

impl Rule {
    pub(super) fn write(self, message: &mut Message) {
        message.raw(&self.expressions.into_fragment());
    }

    fn add(mut self, name: &str, data: impl FnOnce(&mut Message)) -> Self {
        self.expressions.nest(LIST_ELEMENT, |m| {
            m.attr_str(EXPRESSION_NAME, name).nest(EXPRESSION_DATA, data);
        });
        self
    }

    pub(crate) fn load(self, field: Field, to: u32) -> Self {
        self.add("payload", |m| {
            m.attr_be32(1, register(to)).attr_be32(2, field.base).attr_be32(3, field.offset).attr_be32(4, field.length);
        })
    }

    pub(crate) fn load_meta(self, key: Meta, to: u32) -> Self {
        self.add("meta", |m| _ = m.attr_be32(1, register(to)).attr_be32(2, key as u32))
    }

    fn compare(self, from: u32, is: Is, value: &[u8]) -> Self {
        self.add("cmp", |m| {
            m.attr_be32(1, register(from)).attr_be32(2, is as u32).nest(3, |m| _ = m.attr(DATA_VALUE, value));
        })
    }

    pub(crate) fn mask(self, at: u32, mask: [u8; 4]) -> Self {
        self.add("bitwise", |m| {
            m.attr_be32(1, register(at)).attr_be32(2, register(at)).attr_be32(3, 4);
            m.nest(4, |m| _ = m.attr(DATA_VALUE, &mask)).nest(5, |m| _ = m.attr(DATA_VALUE, &[0; 4]));
        })
    }

    /// The address is (not) this one.
    pub(crate) fn address(self, field: Field, is: Is, address: Ipv4Addr) -> Self {
        self.load(field, 0).compare(0, is, &address.octets())
    }

    /// The address is (not) in this network.
    pub(crate) fn within(self, field: Field, is: Is, cidr: Cidr) -> Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(cidr.prefix.min(32))).unwrap_or(0);
        self.load(field, 0).mask(0, mask.to_be_bytes()).compare(0, is, &cidr.address.octets())
    }

    /// The packet came in through an interface whose name starts like this.
    pub(crate) fn input_prefix(self, prefix: &str) -> Self {
        self.load_meta(Meta::InputName, 0).compare(0, Is::Equal, prefix.as_bytes())
    }

    pub(crate) fn protocol(self, number: u8) -> Self {
        self.load_meta(Meta::Protocol, 0).compare(0, Is::Equal, &[number])
    }

    /// The way back to the source does not lead through the interface that the packet came from.
    pub(crate) fn source_elsewhere(self) -> Self {
        const RESULT_OIF: u32 = 1;
        const SADDR_IIF_PRESENT: u32 = 1 | 8 | 32;
        let fib = self.add("fib", |m| {
            m.attr_be32(1, register(0)).attr_be32(2, RESULT_OIF).attr_be32(3, SADDR_IIF_PRESENT);
        });
        fib.compare(0, Is::Equal, &[0; 4])
    }

    /// The destination is an address of the node itself.
    pub(crate) fn destined_here(self) -> Self {
        const RESULT_TYPE: u32 = 3;
        const DADDR: u32 = 2;
        const LOCAL: u32 = 2;
        let fib = self.add("fib", |m| {
            m.attr_be32(1, register(0)).attr_be32(2, RESULT_TYPE).attr_be32(3, DADDR);
        });
        fib.compare(0, Is::Equal, &LOCAL.to_ne_bytes())
    }

    /// The connection goes to a service: its destination was translated.
    pub(crate) fn translated(self) -> Self {
        const STATUS: u32 = 2;
        let loaded = self.add("ct", |m| _ = m.attr_be32(1, register(0)).attr_be32(2, STATUS));
        loaded.mask(0, DESTINATION_TRANSLATED.to_ne_bytes()).compare(0, Is::NotEqual, &[0; 4])
    }

    /// The value from register 0 on is in this set.
    pub(crate) fn in_set(self, set: &str) -> Self {
        self.add("lookup", |m| _ = m.attr_str(1, set).attr_be32(2, register(0)))
    }

    /// Does what the map says for the value from register 0 on.
    pub(crate) fn verdict_of(self, map: &str) -> Self {
        self.add("lookup", |m| _ = m.attr_str(1, map).attr_be32(2, register(0)).attr_be32(3, VERDICT))
    }

    /// Replaces the value from register 0 on by what the map has for it.
    pub(crate) fn value_of(self, map: &str) -> Self {
        self.add("lookup", |m| _ = m.attr_str(1, map).attr_be32(2, register(0)).attr_be32(3, register(0)))
    }

    pub(crate) fn verdict(self, verdict: Verdict<'_>) -> Self {
        self.add("immediate", |m| _ = m.attr_be32(1, VERDICT).nest(2, |m| verdict.write(m)))
    }

    /// A random number below `modulus`.
    pub(crate) fn random(self, modulus: u32, to: u32) -> Self {
        const RANDOM: u32 = 1;
        self.add("numgen", |m| _ = m.attr_be32(1, register(to)).attr_be32(2, modulus).attr_be32(3, RANDOM))
    }

    /// A number below `modulus` that depends on one word only. The seed is fixed, so that every node
    /// comes to the same.
    pub(crate) fn hash(self, from: u32, modulus: u32, to: u32) -> Self {
        const SEED: u32 = 0x636f_7261;
        self.add("hash", |m| {
            m.attr_be32(1, register(from)).attr_be32(2, register(to)).attr_be32(3, 4);
            m.attr_be32(4, modulus).attr_be32(5, SEED).attr_be32(7, 0);
        })
    }

    /// Sends the connection to the address in register 0, the port in register 1.
    pub(crate) fn destination_nat(self) -> Self {
        const DESTINATION_NAT: u32 = 1;
        const FAMILY_IPV4: u32 = 2;
        self.add("nat", |m| {
            m.attr_be32(1, DESTINATION_NAT).attr_be32(2, FAMILY_IPV4);
            m.attr_be32(3, register(0)).attr_be32(5, register(1));
        })
    }

    /// Lets the connection appear to come from the node.
    pub(crate) fn masquerade(self) -> Self {
        self.add("masq", |_| {})
    }

    /// Answers with a TCP reset.
    pub(crate) fn reset(self) -> Self {
        self.add("reject", |m| _ = m.attr_be32(1, 1).attr(2, &[0]))
    }

    /// Answers with ICMP port unreachable.
    pub(crate) fn unreachable(self) -> Self {
        self.add("reject", |m| _ = m.attr_be32(1, 0).attr(2, &[3]))
    }
}
