//! Names of users and groups, as a container's own image has them.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{Error, User};

/// A larger `/etc/passwd` is not an image's.
const MAX_FILE: u64 = 1 << 20;

/// Resolves `USER[:GROUP]` of an image's configuration (names or numbers; empty is root) by the
/// image's own `/etc/passwd` and `/etc/group`, as the topmost layer has them. Supplementary groups
/// are those that list the user. `lowers` are topmost first.
///
/// # Errors
/// [`Error::Invalid`] when a name is not there.
pub fn resolve_user(lowers: &[PathBuf], user: &str) -> Result<User, Error> {
    resolve(&read(lowers, "etc/passwd"), &read(lowers, "etc/group"), user)
}

/// The home directory of a user id, `/` when the image does not know it.
pub fn home(lowers: &[PathBuf], uid: u32) -> String {
    let passwd = read(lowers, "etc/passwd");
    let entry = entries(&passwd).find(|f| f.get(2).and_then(|n| n.parse().ok()) == Some(uid));
    let home = entry.and_then(|f| f.get(5).copied()).filter(|h| h.starts_with('/'));
    home.unwrap_or("/").to_string()
}

/// The topmost layer that has the file (or a whiteout of it) decides. Links stay in their layer.
fn read(lowers: &[PathBuf], path: &str) -> String {
    for lower in lowers {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let Ok(root) = rustix::fs::open(lower, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        else {
            continue;
        };
        let Ok(fd) = rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) else { continue };
        let file = File::from(fd);
        if !file.metadata().is_ok_and(|m| m.is_file()) {
            return String::new();
        }
        let mut text = Vec::new();
        let _ = file.take(MAX_FILE).read_to_end(&mut text);
        return String::from_utf8_lossy(&text).into_owned();
    }
    String::new()
}

fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|l| !l.starts_with('#')).map(|l| l.split(':').collect())
}

fn resolve(passwd: &str, groups: &str, user: &str) -> Result<User, Error> {
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|g| !g.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number: Option<u32> = name.parse().ok();
    let id = |fields: &[&str], i: usize| fields.get(i).and_then(|n| n.parse::<u32>().ok());
    let entry = entries(passwd).find(|f| f[0] == name || (number.is_some() && id(f, 2) == number));
    let uid = match (number, &entry) {
        (Some(number), _) => number,
        (None, Some(fields)) => id(fields, 2).ok_or_else(|| Error::Invalid(format!("no number for user {name:?}")))?,
        (None, None) => return Err(Error::Invalid(format!("the image has no user {name:?} in /etc/passwd"))),
    };
    let gid = match group {
        None => entry.as_ref().and_then(|f| id(f, 3)).unwrap_or(0),
        Some(group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => entries(groups)
                .find(|f| f[0] == group)
                .and_then(|f| id(&f, 2))
                .ok_or_else(|| Error::Invalid(format!("the image has no group {group:?} in /etc/group")))?,
        },
    };
    let login = entry.as_ref().map_or("", |f| f[0]);
    let lists = |f: &Vec<&str>| !login.is_empty() && f.get(3).is_some_and(|m| m.split(',').any(|n| n == login));
    let more =
        if group.is_some() { Vec::new() } else { entries(groups).filter(lists).filter_map(|f| id(&f, 2)).collect() };
    Ok(User { uid, gid, groups: more })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:w:/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlog:x:40:web,other\ntape:x:26:root\n";

    #[test]
    fn users_and_groups_resolve_as_the_image_names_them() {
        let check = |user: &str, expect: Option<(u32, u32, &[u32])>| {
            let found = resolve(PASSWD, GROUP, user).ok().map(|u| (u.uid, u.gid, u.groups));
            assert_eq!(found, expect.map(|(u, g, m)| (u, g, m.to_vec())), "{user:?}");
        };
        check("", Some((0, 0, &[26])));
        check("web", Some((33, 34, &[40])));
        check("33", Some((33, 34, &[40])));
        check("web:log", Some((33, 40, &[])));
        check("1000", Some((1000, 0, &[])));
        check("1000:1001", Some((1000, 1001, &[])));
        check("nobody", None);
        check("web:nogroup", None);
        assert_eq!(resolve("", "", "").unwrap(), User::default());
    }
}
