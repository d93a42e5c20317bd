//! What a start mounts: trees of the node, the root, and the steps inside it.

use std::ffi::CStr;

use crate::codec::{Malformed, Reader, Writer};
use crate::message::{get_list, get_option, put_list, put_option};

/// A mount tree taken from the host's view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree<S> {
    pub path: S,
    /// Resolved inside `path` (openat2 RESOLVE_IN_ROOT), made as directories when missing.
    pub sub_path: Option<S>,
    pub recursive: bool,
    /// Stays in its peer group (`Bidirectional`).
    pub shared: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root<S> {
    /// `lowers` topmost first; `upper` and `work` exist. Relative to `base`.
    Overlay {
        base: S,
        lowers: Vec<S>,
        upper: S,
        work: S,
        attributes: u32,
    },
    Tree {
        index: u32,
        attributes: u32,
    },
}

/// One thing to do inside the new root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<S> {
    /// mkdir; one that exists is left as it is.
    Directory {
        path: S,
        mode: u32,
    },
    Symlink {
        path: S,
        target: S,
    },
    Node {
        path: S,
        mode: u32,
        major: u32,
        minor: u32,
    },
    /// mount(2) of a new file system; `flags` are MS_*. The target is made when missing.
    Mount {
        kind: S,
        path: S,
        flags: u32,
        data: S,
    },
    /// Attaches a tree; `attributes` are MOUNT_ATTR_*. The target is made when missing, as a file
    /// or directory like the tree.
    Attach {
        tree: u32,
        path: S,
        attributes: u32,
        propagation: u32,
    },
    /// Covers a file with `/dev/null`, a directory with an empty read-only tmpfs. Missing is fine.
    Mask {
        path: S,
    },
    /// Bind-mounts a path read-only onto itself. Missing is fine.
    ReadOnly {
        path: S,
    },
}

impl<S: AsRef<CStr>> Tree<S> {
    pub(crate) fn encode(&self, w: &mut Writer) {
        w.cstr(self.path.as_ref());
        put_option(w, &self.sub_path);
        w.u8(self.recursive as u8);
        w.u8(self.shared as u8);
    }
}

impl<'a> Tree<&'a CStr> {
    pub(crate) fn decode(r: &mut Reader<'a>) -> Result<Tree<&'a CStr>, Malformed> {
        Ok(Tree { path: r.cstr()?, sub_path: get_option(r)?, recursive: r.u8()? != 0, shared: r.u8()? != 0 })
    }
}

impl<S: AsRef<CStr>> Root<S> {
    pub(crate) fn encode(&self, w: &mut Writer) {
        match self {
            Root::Overlay { base, lowers, upper, work, attributes } => {
                w.u8(1);
                w.cstr(base.as_ref());
                put_list(w, lowers);
                w.cstr(upper.as_ref());
                w.cstr(work.as_ref());
                w.u32(*attributes);
            }
            Root::Tree { index, attributes } => {
                w.u8(2);
                w.u32(*index);
                w.u32(*attributes);
            }
        }
    }
}

impl<'a> Root<&'a CStr> {
    pub(crate) fn decode(r: &mut Reader<'a>) -> Result<Root<&'a CStr>, Malformed> {
        match r.u8()? {
            1 => Ok(Root::Overlay {
                base: r.cstr()?,
                lowers: get_list(r)?,
                upper: r.cstr()?,
                work: r.cstr()?,
                attributes: r.u32()?,
            }),
            2 => Ok(Root::Tree { index: r.u32()?, attributes: r.u32()? }),
            _ => Err(Malformed),
        }
    }
}

impl<S: AsRef<CStr>> Step<S> {
    pub(crate) fn encode(&self, w: &mut Writer) {
        match self {
            Step::Directory { path, mode } => {
                w.u8(1);
                w.cstr(path.as_ref());
                w.u32(*mode);
            }
            Step::Symlink { path, target } => {
                w.u8(2);
                w.cstr(path.as_ref());
                w.cstr(target.as_ref());
            }
            Step::Node { path, mode, major, minor } => {
                w.u8(3);
                w.cstr(path.as_ref());
                w.u32(*mode);
                w.u32(*major);
                w.u32(*minor);
            }
            Step::Mount { kind, path, flags, data } => {
                w.u8(4);
                w.cstr(kind.as_ref());
                w.cstr(path.as_ref());
                w.u32(*flags);
                w.cstr(data.as_ref());
            }
            Step::Attach { tree, path, attributes, propagation } => {
                w.u8(5);
                w.u32(*tree);
                w.cstr(path.as_ref());
                w.u32(*attributes);
                w.u32(*propagation);
            }
            Step::Mask { path } => {
                w.u8(6);
                w.cstr(path.as_ref());
            }
            Step::ReadOnly { path } => {
                w.u8(7);
                w.cstr(path.as_ref());
            }
        }
    }
}

impl<'a> Step<&'a CStr> {
    pub(crate) fn decode(r: &mut Reader<'a>) -> Result<Step<&'a CStr>, Malformed> {
        Ok(match r.u8()? {
            1 => Step::Directory { path: r.cstr()?, mode: r.u32()? },
            2 => Step::Symlink { path: r.cstr()?, target: r.cstr()? },
            3 => Step::Node { path: r.cstr()?, mode: r.u32()?, major: r.u32()?, minor: r.u32()? },
            4 => Step::Mount { kind: r.cstr()?, path: r.cstr()?, flags: r.u32()?, data: r.cstr()? },
            5 => Step::Attach { tree: r.u32()?, path: r.cstr()?, attributes: r.u32()?, propagation: r.u32()? },
            6 => Step::Mask { path: r.cstr()? },
            7 => Step::ReadOnly { path: r.cstr()? },
            _ => return Err(Malformed),
        })
    }
}
