//! Removing images when the disk gets full: least recently used first, never one in use.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use crate::digest::Sha256;
use crate::error::ImageError;
use crate::images::Images;
use crate::store::ImageRecord;

/// An image that was asked for this recently is not removed: whoever asked may not have said yet
/// that it is in use.
const MIN_AGE: Duration = Duration::from_secs(300);
/// Downloads that nobody went on with for this long are given up.
const PARTIAL_AGE: Duration = Duration::from_secs(86_400);

/// When to begin and when to stop, as the share of the file system that is used, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// Nothing is removed below this.
    pub high: u8,
    /// Removing stops below this.
    pub low: u8,
}

impl Default for Pressure {
    /// The kubelet's numbers.
    fn default() -> Pressure {
        Pressure { high: 85, low: 80 }
    }
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub images: Vec<Sha256>,
    pub layers: usize,
    /// Bytes of the removed layers' files.
    pub bytes: u64,
}

impl Images {
    /// Removes images that are not `in_use` (by [`crate::Image::id`]) while the disk is above
    /// `pressure`, and always what no image needs: layers of removed images and old partial
    /// downloads. Works without free space.
    pub fn gc(&self, in_use: &HashSet<Sha256>, pressure: Pressure, now: SystemTime) -> Result<Collected, ImageError> {
        let mut collected = Collected::default();
        self.sweep_partials(now)?;
        self.remove_unused_layers(&mut collected)?;
        if self.used_percent()? < u64::from(pressure.high) {
            return Ok(collected);
        }
        for id in candidates(self, in_use, now) {
            if self.used_percent()? < u64::from(pressure.low) {
                break;
            }
            if self.remove_image(id, now)? {
                collected.images.push(id);
                self.remove_unused_layers(&mut collected)?;
            }
        }
        Ok(collected)
    }

    /// False when it has been used in the meantime.
    fn remove_image(&self, id: Sha256, now: SystemTime) -> Result<bool, ImageError> {
        let _frozen = self.pins.freeze();
        if !is_old(self.store.last_used(&id), now, MIN_AGE) {
            return Ok(false);
        }
        self.store.remove_images(&[id]).map(|()| true)
    }

    fn remove_unused_layers(&self, collected: &mut Collected) -> Result<(), ImageError> {
        let needed: BTreeSet<Sha256> = self.store.image_records().iter().flat_map(layers_of).collect();
        for layer in self.store.layer_records() {
            if needed.contains(&layer.diff_id) {
                continue;
            }
            // Taking the name away is quick; the files go when pulls may go on.
            let grave = {
                let pins = self.pins.freeze();
                let named = self.store.image_records().iter().any(|image| layers_of(image).contains(&layer.diff_id));
                if named || pins.contains_key(&layer.diff_id) {
                    continue;
                }
                self.store.bury_layer(&layer.diff_id)?
            };
            if let Some(grave) = grave {
                crate::store::remove_tree(&grave)?;
                collected.layers += 1;
                collected.bytes += layer.size;
            }
        }
        Ok(())
    }

    fn sweep_partials(&self, now: SystemTime) -> Result<(), ImageError> {
        for path in self.store.partials()? {
            let modified = std::fs::metadata(&path).and_then(|meta| meta.modified());
            if modified.is_ok_and(|time| is_old(time, now, PARTIAL_AGE)) {
                crate::store::remove_if_there(&path)?;
            }
        }
        Ok(())
    }

    /// As `df` counts it: of what an ordinary user could have.
    fn used_percent(&self) -> Result<u64, ImageError> {
        let path = self.store.root();
        let stat =
            rustix::fs::statvfs(path).map_err(|e| ImageError::io("look at the file system of", path)(e.into()))?;
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        Ok((used * 100).checked_div(used + stat.f_bavail).unwrap_or(0))
    }
}

/// Images that may go, the least recently used first.
fn candidates(images: &Images, in_use: &HashSet<Sha256>, now: SystemTime) -> Vec<Sha256> {
    let mut old: Vec<(SystemTime, Sha256)> = images
        .store
        .image_records()
        .iter()
        .map(|record| (images.store.last_used(&record.id), record.id))
        .filter(|(used, id)| !in_use.contains(id) && is_old(*used, now, MIN_AGE))
        .collect();
    old.sort();
    old.into_iter().map(|(_, id)| id).collect()
}

fn is_old(time: SystemTime, now: SystemTime, age: Duration) -> bool {
    // A time in the future is one of a clock that was wrong: not old.
    now.duration_since(time).is_ok_and(|passed| passed >= age)
}

fn layers_of(image: &ImageRecord) -> Vec<Sha256> {
    image.diff_ids.iter().chain(&image.overlay).copied().collect()
}
