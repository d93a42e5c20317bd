//! nf_tables spoken directly: batches of tables, chains, sets, elements and rules
//! (`linux/netfilter/nf_tables.h`, `linux/netfilter/nfnetlink.h`). A batch is one transaction: the
//! kernel takes it whole or not at all, and no packet sees half of it.

pub(crate) mod conntrack;
pub(crate) mod expr;
pub(crate) mod foreign;
pub(crate) mod table;

use rustix::io::Errno;

use super::netlink::{Message, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NetlinkError, Socket};
use expr::Rule;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const NEW_TABLE: u16 = SUBSYSTEM << 8;
const GET_TABLE: u16 = NEW_TABLE | 1;
const DELETE_TABLE: u16 = NEW_TABLE | 2;
const NEW_CHAIN: u16 = NEW_TABLE | 3;
const DELETE_CHAIN: u16 = NEW_TABLE | 5;
const NEW_RULE: u16 = NEW_TABLE | 6;
const NEW_SET: u16 = NEW_TABLE | 9;
const NEW_ELEMENT: u16 = NEW_TABLE | 12;
const DELETE_ELEMENT: u16 = NEW_TABLE | 14;

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LENGTH: u16 = 7;
const SET_ID: u16 = 10;
const FLAG_MAP: u32 = 8;
const DATA_VERDICT: u32 = 0xffff_ff00;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT_ATTR: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_IPV4: u8 = 2;

/// Elements in one message: their list is an attribute, whose length is a 16-bit number, and none
/// takes more than 100 bytes.
const ELEMENTS_PER_MESSAGE: usize = 500;

/// Where a base chain hooks in (`enum nf_inet_hooks`).
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Hook {
    Prerouting = 0,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    Drop,
    Goto(&'a str),
}

impl Verdict<'_> {
    fn write(self, message: &mut Message) {
        message.nest(DATA_VERDICT_ATTR, |m| match self {
            Verdict::Drop => _ = m.attr_be32(VERDICT_CODE, 0),
            Verdict::Goto(chain) => _ = m.attr_be32(VERDICT_CODE, -4_i32 as u32).attr_str(VERDICT_CHAIN, chain),
        });
    }
}

/// What a map's or set's elements carry beside their key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data<'a> {
    None,
    Verdict(Verdict<'a>),
    Value(&'a [u8]),
}

/// The type of the keys or values of a set: the fields of a concatenation with their types' numbers in
/// the `nft` program, which only that program reads. Each field takes four bytes.
pub(crate) struct Type(pub &'static [u32]);

/// Numbers of data types in the `nft` program.
pub(crate) const IPV4_ADDRESS: u32 = 7;
pub(crate) const INET_PROTOCOL: u32 = 12;
pub(crate) const INET_SERVICE: u32 = 13;
pub(crate) const MARK: u32 = 19;

impl Type {
    fn number(&self) -> u32 {
        self.0.iter().fold(0, |number, field| number << 6 | field)
    }

    fn length(&self) -> u32 {
        self.0.len() as u32 * 4
    }
}

/// What the elements of a new set carry.
pub(crate) enum Values {
    None,
    Verdict,
    Data(Type),
}

/// A transaction in the making, on one table.
pub(crate) struct Batch<'a> {
    table: &'a str,
    message: Message,
    /// What each message is for, in order of sequence numbers: names the one that was refused.
    labels: Vec<String>,
}

fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

impl<'a> Batch<'a> {
    pub(crate) fn new(table: &'a str) -> Self {
        let mut batch = Batch { table, message: Message::default(), labels: Vec::new() };
        batch.message.begin(BATCH_BEGIN, 0, 0);
        batch.message.raw(&header(NFPROTO_UNSPEC, SUBSYSTEM));
        batch
    }

    fn begin(&mut self, kind: u16, flags: u16, label: impl Into<String>) -> &mut Message {
        self.labels.push(label.into());
        self.message.begin(kind, flags | NLM_F_ACK, self.labels.len() as u32);
        self.message.raw(&header(NFPROTO_IPV4, 0))
    }

    pub(crate) fn add_table(&mut self) {
        let table = self.table;
        self.begin(NEW_TABLE, NLM_F_CREATE, "add table").attr_str(TABLE_NAME, table);
    }

    pub(crate) fn delete_table(&mut self) {
        let table = self.table;
        self.begin(DELETE_TABLE, 0, "delete table").attr_str(TABLE_NAME, table);
    }

    pub(crate) fn add_chain(&mut self, name: &str) {
        let table = self.table;
        let message = self.begin(NEW_CHAIN, NLM_F_CREATE, format!("add chain {name}"));
        message.attr_str(CHAIN_TABLE, table).attr_str(CHAIN_NAME, name);
    }

    /// A chain that packets enter from the kernel; `kind` is `filter` or `nat`.
    pub(crate) fn add_base_chain(&mut self, name: &str, kind: &str, hook: Hook, priority: i32) {
        self.add_chain(name);
        self.message.nest(CHAIN_HOOK, |m| {
            m.attr_be32(HOOK_NUMBER, hook as u32).attr_be32(HOOK_PRIORITY, priority as u32);
        });
        self.message.attr_str(CHAIN_TYPE, kind);
    }

    /// Deletes a chain with its rules; nothing may lead to it any more.
    pub(crate) fn delete_chain(&mut self, name: &str) {
        let table = self.table;
        let message = self.begin(DELETE_CHAIN, 0, format!("delete chain {name}"));
        message.attr_str(CHAIN_TABLE, table).attr_str(CHAIN_NAME, name);
    }

    pub(crate) fn add_rule(&mut self, chain: &str, rule: Rule) {
        let table = self.table;
        let message = self.begin(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, format!("add rule to {chain}"));
        message.attr_str(RULE_TABLE, table).attr_str(RULE_CHAIN, chain);
        message.nest(RULE_EXPRESSIONS, |m| rule.write(m));
    }

    pub(crate) fn add_set(&mut self, name: &str, key: &Type, values: &Values) {
        let table = self.table;
        let id = self.labels.len() as u32 + 1;
        let message = self.begin(NEW_SET, NLM_F_CREATE, format!("add set {name}"));
        message.attr_str(SET_TABLE, table).attr_str(SET_NAME, name).attr_be32(SET_ID, id);
        message.attr_be32(SET_KEY_TYPE, key.number()).attr_be32(SET_KEY_LENGTH, key.length());
        match values {
            Values::None => message.attr_be32(SET_FLAGS, 0),
            Values::Verdict => message.attr_be32(SET_FLAGS, FLAG_MAP).attr_be32(SET_DATA_TYPE, DATA_VERDICT),
            Values::Data(data) => message
                .attr_be32(SET_FLAGS, FLAG_MAP)
                .attr_be32(SET_DATA_TYPE, data.number())
                .attr_be32(SET_DATA_LENGTH, data.length()),
        };
    }

    /// Adds elements, or deletes them.
    pub(crate) fn elements<K: AsRef<[u8]>>(&mut self, delete: bool, set: &str, elements: &[(K, Data<'_>)]) {
        let table = self.table;
        for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let (kind, flags, verb) =
                if delete { (DELETE_ELEMENT, 0, "delete from") } else { (NEW_ELEMENT, NLM_F_CREATE, "add to") };
            let message = self.begin(kind, flags, format!("{verb} {set}"));
            message.attr_str(LIST_TABLE, table).attr_str(LIST_SET, set);
            message.nest(LIST_ELEMENTS, |m| {
                for (key, data) in some {
                    m.nest(LIST_ELEMENT, |m| write_element(m, key.as_ref(), *data));
                }
            });
        }
    }

    /// Hands the transaction to the kernel.
    ///
    /// # Errors
    /// The first refusal, with what it was about; then nothing was changed.
    pub(crate) fn commit(mut self, socket: &mut Socket) -> Result<(), (String, NetlinkError)> {
        self.message.begin(BATCH_END, 0, self.labels.len() as u32 + 1);
        self.message.raw(&header(NFPROTO_UNSPEC, SUBSYSTEM));
        let labels = self.labels;
        socket.batch(&self.message.finish()).map_err(|(sequence, error)| {
            let label = (sequence as usize).checked_sub(1).and_then(|i| labels.get(i).cloned());
            (label.unwrap_or_else(|| "commit".into()), error)
        })
    }
}

fn write_element(message: &mut Message, key: &[u8], data: Data<'_>) {
    message.nest(ELEMENT_KEY, |m| _ = m.attr(DATA_VALUE, key));
    match data {
        Data::None => {}
        Data::Verdict(verdict) => _ = message.nest(ELEMENT_DATA, |m| verdict.write(m)),
        Data::Value(value) => _ = message.nest(ELEMENT_DATA, |m| _ = m.attr(DATA_VALUE, value)),
    }
}

/// Whether the table is in the kernel.
pub(crate) fn table_exists(socket: &mut Socket, table: &str) -> Result<bool, NetlinkError> {
    let mut message = Message::new(GET_TABLE, 0);
    message.raw(&header(NFPROTO_IPV4, 0)).attr_str(TABLE_NAME, table);
    match socket.request(message) {
        Ok(()) => Ok(true),
        Err(e) if e.errno == Errno::NOENT => Ok(false),
        Err(e) => Err(e),
    }
}
