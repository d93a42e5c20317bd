//! Other people's packet filters: a drop in a table of theirs wins over whatever this node's table
//! says (Docker, ufw and firewalld set one on forwarded packets), so it is looked for and named.

use std::collections::BTreeSet;

use coracle_shared::desired::Cidr;

use super::table::TABLE;
use super::{CHAIN_HOOK, CHAIN_NAME, CHAIN_TABLE, HOOK_NUMBER, Hook, NFPROTO_IPV4, NFPROTO_UNSPEC, SUBSYSTEM, header};
use super::{RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE};
use crate::network::netlink::{Answer, Attrs, Message, NetlinkError, Socket};
use crate::network::plan::VETH_PREFIX;

const GET_CHAIN: u16 = (SUBSYSTEM << 8) | 4;
const GET_RULE: u16 = (SUBSYSTEM << 8) | 7;
const CHAIN_POLICY: u16 = 5;
const LIST_EXPRESSION: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const IMMEDIATE_DATA: u16 = 2;
const VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const NF_DROP: u32 = 0;
/// Tables of both families see IPv4: `ip` and `inet`.
const NFPROTO_INET: u8 = 1;
/// `struct nfgenmsg` before the attributes.
const FIXED: usize = 4;

/// A chain of somebody else's that ends forwarded packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignDrop {
    /// As `nft` says it: `ip filter FORWARD`.
    pub chain: String,
    /// A policy, or a last rule that lets nothing by.
    pub by_policy: bool,
}

/// A base chain on forwarded packets.
struct Base {
    family: u8,
    table: String,
    chain: String,
    drops: bool,
}

/// The chains that drop packets between pods. One whose table has a rule about pods (their network, or
/// their interfaces) is taken for mended.
///
/// # Errors
/// The kernel does not say what there is.
pub fn drops(socket: &mut Socket, pods: Cidr) -> Result<Vec<ForeignDrop>, NetlinkError> {
    let mut request = Message::new(GET_CHAIN, 0);
    request.raw(&header(NFPROTO_UNSPEC, 0));
    let bases: Vec<Base> = socket.dump(request)?.iter().filter_map(base).collect();
    let mut found = Vec::new();
    for family in bases.iter().map(|b| b.family).collect::<BTreeSet<u8>>() {
        let mut request = Message::new(GET_RULE, 0);
        request.raw(&header(family, 0));
        let rules = socket.dump(request)?;
        for base in bases.iter().filter(|b| b.family == family) {
            let of_table = || rules.iter().filter(|r| text(r.attrs(FIXED).find(RULE_TABLE)) == base.table);
            let last = of_table().rfind(|r| text(r.attrs(FIXED).find(RULE_CHAIN)) == base.chain);
            let ends = last.is_some_and(|r| ends_all(r.attrs(FIXED).find(RULE_EXPRESSIONS).unwrap_or_default()));
            if (base.drops || ends) && !of_table().any(|rule| is_about_pods(&rule.body, pods)) {
                let family = if family == NFPROTO_INET { "inet" } else { "ip" };
                let chain = format!("{family} {} {}", base.table, base.chain);
                found.push(ForeignDrop { chain, by_policy: base.drops });
            }
        }
    }
    Ok(found)
}

fn base(answer: &Answer) -> Option<Base> {
    let family = *answer.body.first()?;
    let attrs = answer.attrs(FIXED);
    let number = |value: &[u8]| Some(u32::from_be_bytes(value.try_into().ok()?));
    let hook = number(Attrs::of(attrs.find(CHAIN_HOOK)?).find(HOOK_NUMBER)?)?;
    let (table, chain) = (text(attrs.find(CHAIN_TABLE)), text(attrs.find(CHAIN_NAME)));
    let watched = matches!(family, NFPROTO_IPV4 | NFPROTO_INET) && hook == Hook::Forward as u32 && table != TABLE;
    let drops = attrs.find(CHAIN_POLICY).and_then(number) == Some(NF_DROP);
    watched.then_some(Base { family, table, chain, drops })
}

fn text(value: Option<&[u8]>) -> String {
    String::from_utf8_lossy(value.unwrap_or_default()).trim_end_matches('\0').to_owned()
}

/// The rule asks nothing of a packet and drops or refuses it (firewalld's last one).
fn ends_all(expressions: &[u8]) -> bool {
    let named = |(kind, value): (u16, &[u8])| {
        let attrs = Attrs::of(value);
        let name = text(attrs.find(EXPRESSION_NAME));
        (kind == LIST_EXPRESSION).then(|| (name, attrs.find(EXPRESSION_DATA).unwrap_or_default().to_vec()))
    };
    let first = Attrs::of(expressions).filter_map(named).find(|(name, _)| name != "counter" && name != "log");
    first.is_some_and(|(name, data)| name == "reject" || (name == "immediate" && is_drop(&data)))
}

fn is_drop(immediate: &[u8]) -> bool {
    let verdict = Attrs::of(immediate).find(IMMEDIATE_DATA).and_then(|data| Attrs::of(data).find(VERDICT));
    verdict.and_then(|v| Attrs::of(v).find(VERDICT_CODE)).is_some_and(|code| code == NF_DROP.to_be_bytes())
}

/// Whether a rule compares with the pods' network (as `nft` and `iptables-nft` write it: whole bytes
/// of the prefix, or the masked address), or with the names of their interfaces.
fn is_about_pods(rule: &[u8], pods: Cidr) -> bool {
    let address = pods.address.octets();
    let whole = usize::from(pods.prefix / 8).clamp(1, address.len());
    let mut wanted: Vec<Vec<u8>> = [&address[..whole], &address[..]].map(value).into();
    // Names compare by prefix, or as the kernel's 16 bytes: both begin so.
    wanted.extend((1..=16u16).map(|n| [&(n + 4).to_ne_bytes()[..], &[1, 0], VETH_PREFIX.as_bytes()].concat()));
    wanted.iter().any(|bytes| rule.windows(bytes.len()).any(|window| window == bytes))
}

/// A value as an attribute of a comparison (NFTA_DATA_VALUE).
fn value(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16 + 4).to_ne_bytes()[..], &1u16.to_ne_bytes(), bytes].concat()
}
