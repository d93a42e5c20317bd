//! What one room asks for in its own words and another has in its own: the clock, the nodes'
//! contacts, the platforms of images. Rooms do not know each other; this is where they meet.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use async_channel::Sender;
use coracle_controllers::{Contact, Contacts};
use coracle_images::settings::Registries;
use coracle_images::{Images, Reference};
use coracle_scheduler::ImagePlatforms;
use coracle_shared::contact;
use coracle_shared::time::{Clock, Millis};
use coracle_store::{Range, Store};

/// The system's clocks.
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    pub fn start() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Millis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Millis {
        Millis(i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX))
    }
}

/// The sessions' word on nodes, as the node controller asks for it.
pub struct NodeContacts {
    pub sessions: Arc<dyn contact::Contacts>,
    pub clock: Arc<dyn Clock>,
}

impl Contacts for NodeContacts {
    fn contact(&self, node: &str) -> Contact {
        match self.sessions.contact(node) {
            contact::Contact::Connected { answering: true } => Contact::Alive,
            contact::Contact::Connected { answering: false } => Contact::Stuck,
            contact::Contact::Silent(silence) => {
                let silence = i64::try_from(silence.as_millis()).unwrap_or(i64::MAX);
                Contact::Silent { since: Millis(self.clock.monotonic().0.saturating_sub(silence)) }
            }
        }
    }
}

/// What counts as a change of a node's contact.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Alive,
    Stuck,
    Silent,
}

/// Tells the names of nodes whose contact changed, for ever.
pub async fn follow_contacts(sessions: Arc<dyn contact::Contacts>, store: Arc<dyn Store>, changed: Sender<String>) {
    let mut known: BTreeMap<Arc<str>, Known> = BTreeMap::new();
    let mut version = sessions.version();
    loop {
        let all = Range { resource: "nodes".into(), namespace: None, after: None, limit: 0, at: None };
        let nodes = store.list(&all).map(|page| page.items).unwrap_or_default();
        let mut now = BTreeMap::new();
        for node in nodes {
            let name = node.key.name;
            let state = match sessions.contact(&name) {
                contact::Contact::Connected { answering: true } => Known::Alive,
                contact::Contact::Connected { answering: false } => Known::Stuck,
                contact::Contact::Silent(_) => Known::Silent,
            };
            if known.get(&name) != Some(&state) && changed.send(name.to_string()).await.is_err() {
                return;
            }
            now.insert(name, state);
        }
        known = now;
        version = sessions.wait(version).await;
    }
}

/// Images' platforms from their registries, as anybody may ask for them.
pub struct RegistryPlatforms {
    registries: Arc<Registries>,
}

impl RegistryPlatforms {
    /// `file` is a `registries.json`, as agents have.
    pub fn open(file: Option<&Path>) -> Result<RegistryPlatforms, String> {
        let registries = match file {
            None => Registries::default(),
            Some(path) => {
                let text = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
                serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))?
            }
        };
        Ok(RegistryPlatforms { registries: Arc::new(registries) })
    }
}

impl ImagePlatforms for RegistryPlatforms {
    fn architectures<'a>(&'a self, image: &'a str) -> Pin<Box<dyn Future<Output = Option<Vec<String>>> + Send + 'a>> {
        Box::pin(async move {
            let reference: Reference = image.parse().ok()?;
            let registries = self.registries.clone();
            let platforms = smol::unblock(move || Images::platforms(&registries, &reference, &[])).await.ok()?;
            Some(platforms.into_iter().map(|platform| platform.architecture).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct One(contact::Contact);

    impl contact::Contacts for One {
        fn contact(&self, _: &str) -> contact::Contact {
            self.0
        }
        fn version(&self) -> u64 {
            1
        }
        fn wait(&self, _: u64) -> Pin<Box<dyn Future<Output = u64> + Send + '_>> {
            Box::pin(std::future::pending())
        }
    }

    struct At(i64);

    impl Clock for At {
        fn wall(&self) -> Millis {
            Millis(0)
        }
        fn monotonic(&self) -> Millis {
            Millis(self.0)
        }
    }

    #[track_caller]
    fn check(session: contact::Contact, expect: Contact) {
        let contacts = NodeContacts { sessions: Arc::new(One(session)), clock: Arc::new(At(5000)) };
        assert_eq!(contacts.contact("n"), expect);
    }

    #[test]
    fn silence_is_counted_from_when_it_began() {
        check(contact::Contact::Connected { answering: true }, Contact::Alive);
        check(contact::Contact::Connected { answering: false }, Contact::Stuck);
        check(contact::Contact::Silent(Duration::from_secs(2)), Contact::Silent { since: Millis(3000) });
    }
}
