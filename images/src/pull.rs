//! From a name to whole layers on disk: the steps of a pull, in their order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use coracle_shared::fault;

use crate::credential::Credential;
use crate::digest::Sha256;
use crate::download::{Sink, download};
use crate::error::ImageError;
use crate::image::{Event, Progress};
use crate::images::Images;
use crate::manifest::{Configuration, Descriptor, Document, Manifest, select};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::Session;
use crate::store::{ImageRecord, LayerRecord, remove_tree};
use crate::turns::lock;
use crate::unpack::{Job, Refusal, Unpacked, Unpacking, implied};

/// Of a thread that handles one layer: TLS handshakes are its deepest calls.
const STACK: usize = 512 << 10;
/// Compressed bytes between two calls of the progress function.
const PROGRESS_STEP: u64 = 512 << 10;

/// One layer of an image.
#[derive(Clone, Debug)]
pub struct Wanted {
    blob: Descriptor,
    diff_id: Sha256,
}

/// A layer in its temporary directory, with its record written.
struct Ready {
    dir: TempDir,
    record: LayerRecord,
}

/// Goes on with a pull: everything after the registry's settings are known.
pub fn pull(
    images: &Images,
    session: &Session,
    reference: &Reference,
    platform: &Platform,
    progress: &Progress,
) -> Result<ImageRecord, ImageError> {
    let (id, manifest) = resolve(session, reference, platform)?;
    if let Some(record) = images.store.whole(&id) {
        return Ok(record);
    }
    let name = reference.to_string();
    let config = session.small_blob(&manifest.config.digest, manifest.config.size)?;
    let config = Configuration::parse(&name, &config, manifest.layers.len())?;
    if platform.rank(&config.platform).is_none() {
        return Err(ImageError::Platform { reference: name, wanted: platform.clone(), offered: vec![config.platform] });
    }
    let wanted: Vec<Wanted> = manifest
        .layers
        .into_iter()
        .zip(&config.diff_ids)
        .map(|(blob, diff_id)| Wanted { blob, diff_id: *diff_id })
        .collect();
    // Pinned before it is looked whether they are there, so that no collection comes between.
    let _pins = images.pins.pin(config.diff_ids.iter().copied().chain([overlay_id(&config.diff_ids)]));
    let overlay = fetch_layers(images, session, id, &wanted, progress)?;
    let record = ImageRecord {
        id,
        diff_ids: config.diff_ids,
        overlay,
        os: config.platform.os,
        architecture: config.platform.architecture,
        variant: config.platform.variant,
        config: config.config,
    };
    images.store.publish_image(record.clone())?;
    Ok(record)
}

/// The platforms that `reference` is there for.
pub fn platforms(session: &Session, reference: &Reference) -> Result<Vec<Platform>, ImageError> {
    match session.manifest(&reference.manifest_key())?.1 {
        Document::Index(index) => Ok(crate::manifest::platforms(&index)),
        Document::Manifest(manifest) => {
            let config = session.small_blob(&manifest.config.digest, manifest.config.size)?;
            let config = Configuration::parse(&reference.to_string(), &config, manifest.layers.len())?;
            Ok(vec![config.platform])
        }
    }
}

fn resolve(session: &Session, reference: &Reference, platform: &Platform) -> Result<(Sha256, Manifest), ImageError> {
    let (digest, document) = session.manifest(&reference.manifest_key())?;
    let index = match document {
        Document::Manifest(manifest) => return Ok((digest, manifest)),
        Document::Index(index) => index,
    };
    let chosen = select(&reference.to_string(), &index, platform)?;
    match session.manifest(&chosen.digest.to_string())? {
        (digest, Document::Manifest(manifest)) => Ok((digest, manifest)),
        (digest, Document::Index(_)) => Err(ImageError::Manifest {
            what: format!("manifest {digest} of {reference}"),
            problem: "an index inside an index".into(),
        }),
    }
}

/// Brings all layers onto the disk under their final names, whoever downloads them. Answers with the
/// image's overlay of implied directories, if it needs one.
fn fetch_layers(
    images: &Images,
    session: &Session,
    id: Sha256,
    wanted: &[Wanted],
    progress: &Progress,
) -> Result<Option<Sha256>, ImageError> {
    let diff_ids: Vec<Sha256> = wanted.iter().map(|w| w.diff_id).collect();
    report_resolved(images, id, wanted, progress)?;
    loop {
        let missing = missing(images, wanted);
        let claim = images.claims.claim(missing.iter().map(|w| w.diff_id));
        let mine: Vec<Wanted> = missing.iter().filter(|w| claim.mine.contains(&w.diff_id)).cloned().collect();
        if mine.is_empty() && !missing.is_empty() {
            // Other pulls are at all of them.
            drop(claim);
            images.claims.wait(missing[0].diff_id);
            continue;
        }
        check_space(images, &mine)?;
        let mut ready = unpack_all(images, session, mine, progress)?;
        let complete = ready.len() == missing.len();
        let overlay = if complete { make_overlay(images, &diff_ids, &mut ready)? } else { None };
        publish(images, ready)?;
        drop(claim);
        if complete {
            return Ok(overlay);
        }
    }
}

/// The layers that are not on the disk, each once.
fn missing(images: &Images, wanted: &[Wanted]) -> Vec<Wanted> {
    let mut seen = HashSet::new();
    wanted.iter().filter(|w| !images.store.has_layer(&w.diff_id) && seen.insert(w.diff_id)).cloned().collect()
}

fn report_resolved(images: &Images, id: Sha256, wanted: &[Wanted], progress: &Progress) -> Result<(), ImageError> {
    let missing = missing(images, wanted);
    let event = Event::Resolved {
        id,
        layers: wanted.len(),
        missing_layers: missing.len(),
        missing_bytes: missing.iter().map(|w| w.blob.size).sum(),
    };
    report(progress, event)
}

fn report(progress: &Progress, event: Event) -> Result<(), ImageError> {
    match progress(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ImageError::Cancelled),
    }
}

/// Refuses early what cannot fit; how much the layers unpack to shows while they do.
fn check_space(images: &Images, mine: &[Wanted]) -> Result<(), ImageError> {
    let path = images.store.root();
    let stat = rustix::fs::statvfs(path).map_err(|e| ImageError::io("look at the file system of", path)(e.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let needed: u64 = mine.iter().fold(0, |sum, w| sum.saturating_add(w.blob.size));
    let reserve = images.config().reserve;
    if !mine.is_empty() && free < reserve.saturating_add(needed) {
        return Err(ImageError::Space { path: path.to_owned(), free, reserve });
    }
    Ok(())
}

/// Downloads and unpacks, several layers at once. At the first error the others stop.
fn unpack_all(
    images: &Images,
    session: &Session,
    mine: Vec<Wanted>,
    progress: &Progress,
) -> Result<Vec<Ready>, ImageError> {
    let workers = mine.len().min(images.config().parallel.max(1));
    // Large layers first: the last to end should be a small one.
    let mut order = mine;
    order.sort_by_key(|w| std::cmp::Reverse(w.blob.size));
    let queue = Mutex::new(VecDeque::from(order));
    let stop = AtomicBool::new(false);
    let results = Mutex::new((Vec::new(), None));
    let work = || {
        while let Some(wanted) = lock(&queue).pop_front().filter(|_| !stop.load(Ordering::Relaxed)) {
            let _permit = images.permits.take();
            let result = unpack_one(images, session, &wanted, progress, &stop);
            let mut results = lock(&results);
            match result {
                Ok(ready) => results.0.push(ready),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    results.1.get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let spawned = std::thread::Builder::new().name("pull".into()).stack_size(STACK).spawn_scoped(scope, work);
            if let Err(error) = spawned {
                lock(&results).1.get_or_insert(ImageError::io("start a thread for", images.store.root())(error));
            }
        }
    });
    let (ready, error) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    error.map_or(Ok(ready), Err)
}

fn unpack_one(
    images: &Images,
    session: &Session,
    wanted: &Wanted,
    progress: &Progress,
    stop: &AtomicBool,
) -> Result<Ready, ImageError> {
    let partial = images.store.partial(&wanted.blob.digest);
    let resumed = std::fs::metadata(&partial).is_ok_and(|meta| meta.len() > 0);
    let first = attempt(images, session, wanted, &partial, progress, stop);
    match first {
        // After a power cut the beginning may hold zeros: once more, from nothing.
        Err(ImageError::DigestMismatch { .. } | ImageError::Layer { .. }) if resumed => {
            crate::store::remove_if_there(&partial)?;
            attempt(images, session, wanted, &partial, progress, stop)
        }
        first => first,
    }
}

fn attempt(
    images: &Images,
    session: &Session,
    wanted: &Wanted,
    partial: &Path,
    progress: &Progress,
    stop: &AtomicBool,
) -> Result<Ready, ImageError> {
    let dir = TempDir(images.store.temp_dir()?);
    let fs = dir.0.join("fs");
    std::fs::create_dir(&fs).map_err(ImageError::io("create", &fs))?;
    let job = Job { reserve: images.config().reserve, userxattr: images.store.userxattr() };
    let unpacking = Unpacking::start(&images.config().unpacker, &dir.0, &job)
        .map_err(ImageError::io("start the unpacking process", &images.config().unpacker.program))?;
    let blob = wanted.blob.digest;
    let feed =
        Feed { child: Some(unpacking), answer: None, blob, total: wanted.blob.size, reported: 0, progress, stop };
    let unpacked = run(session, wanted, partial, feed)?;
    let refused = |refusal: Refusal| match refusal {
        Refusal::Space { free } => ImageError::Space { path: fs.clone(), free, reserve: images.config().reserve },
        Refusal::Failed(problem) => ImageError::io("unpack into", &fs)(std::io::Error::other(problem)),
        Refusal::Refused(problem) => ImageError::Layer { digest: blob, problem },
    };
    if unpacked.as_ref().map_or_else(|r| matches!(r, Refusal::Refused(_)), |_| true) {
        // Used up, or of no use. Before the sync, which would otherwise write it out.
        crate::store::remove_if_there(partial)?;
    }
    let Unpacked { diff_id, size, entries, implied, warnings } = unpacked.map_err(refused)?;
    warnings.iter().for_each(|warning| images.warn(warning));
    if diff_id != wanted.diff_id {
        let what = format!("unpacked layer {blob}");
        return Err(ImageError::DigestMismatch { what, expected: wanted.diff_id, actual: diff_id });
    }
    let record = LayerRecord { diff_id, size, entries, implied };
    images.store.write_layer_record(&dir.0, &record)?;
    report(progress, Event::Unpacked { digest: blob })?;
    Ok(Ready { dir, record })
}

/// Downloads through the child. Of two errors, the one of the bytes counts: what is not what it
/// should be may fail to unpack in any way.
fn run(
    session: &Session,
    wanted: &Wanted,
    partial: &Path,
    mut feed: Feed<'_>,
) -> Result<Result<Unpacked, Refusal>, ImageError> {
    match (download(session, &wanted.blob, partial, &mut feed), feed.answer.take()) {
        (Err(ImageError::Cancelled), Some(answer @ Err(Refusal::Space { .. } | Refusal::Failed(_)))) => Ok(answer),
        (Err(error), _) => Err(error),
        (Ok(()), Some(answer)) => Ok(answer),
        (Ok(()), None) => Ok(feed.child.take().expect("a child without an answer is there").finish()),
    }
}

/// Hands pieces of a download to the unpacking child.
struct Feed<'a> {
    child: Option<Unpacking>,
    /// Of a child that ended before its input did.
    answer: Option<Result<Unpacked, Refusal>>,
    blob: Sha256,
    total: u64,
    reported: u64,
    progress: &'a Progress<'a>,
    stop: &'a AtomicBool,
}

impl Sink for Feed<'_> {
    fn piece(&mut self, bytes: &[u8], so_far: u64) -> Result<(), ImageError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(ImageError::Cancelled);
        }
        if so_far - self.reported >= PROGRESS_STEP || so_far == self.total {
            self.reported = so_far;
            report(self.progress, Event::Layer { digest: self.blob, bytes: so_far, total: self.total })?;
        }
        let Some(child) = &mut self.child else { return Ok(()) };
        if child.write(bytes).map_err(ImageError::io("write to the unpacking process in", "."))? {
            return Ok(());
        }
        let answer = self.child.take().map(Unpacking::finish);
        // A layer that is at fault is read to its end, to see whether it is the layer at all.
        let goes_on = matches!(answer, Some(Err(Refusal::Refused(_))));
        self.answer = answer;
        if goes_on { Ok(()) } else { Err(ImageError::Cancelled) }
    }
}

/// The image's layer of implied directories, if overlayfs would show some of them wrongly.
fn make_overlay(images: &Images, diff_ids: &[Sha256], ready: &mut Vec<Ready>) -> Result<Option<Sha256>, ImageError> {
    let fresh: HashMap<Sha256, (PathBuf, LayerRecord)> =
        ready.iter().map(|r| (r.record.diff_id, (r.dir.0.join("fs"), r.record.clone()))).collect();
    let mut layers = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids.iter().rev() {
        let (path, record) = match fresh.get(diff_id) {
            Some(found) => found.clone(),
            None => images.store.layer(diff_id).ok_or_else(|| ImageError::Layer {
                digest: *diff_id,
                problem: "it vanished from the disk during the pull".into(),
            })?,
        };
        layers.push(implied::Layer::open(&path, record.implied).map_err(ImageError::io("open", &path))?);
    }
    let root = images.store.root();
    let directories = implied::plan(&layers).map_err(ImageError::io("compare the layers in", root))?;
    if directories.is_empty() {
        return Ok(None);
    }
    let id = overlay_id(diff_ids);
    if images.store.has_layer(&id) {
        return Ok(Some(id));
    }
    let dir = TempDir(images.store.temp_dir()?);
    let fs = dir.0.join("fs");
    std::fs::create_dir(&fs)
        .and_then(|()| implied::write(&fs, &directories))
        .map_err(ImageError::io("write the implied directories in", &fs))?;
    let entries = directories.len() as u64;
    let record = LayerRecord { diff_id: id, size: 0, entries, implied: Vec::new() };
    images.store.write_layer_record(&dir.0, &record)?;
    ready.push(Ready { dir, record });
    Ok(Some(id))
}

/// Names an image's overlay of implied directories: the same layers need the same one.
fn overlay_id(diff_ids: &[Sha256]) -> Sha256 {
    let text: String = diff_ids.iter().map(|id| format!("{id}\n")).collect();
    Sha256::of(format!("implied directories\n{text}").as_bytes())
}

/// One sync for all that was written, its error checked; only then the final names.
fn publish(images: &Images, ready: Vec<Ready>) -> Result<(), ImageError> {
    if ready.is_empty() {
        return Ok(());
    }
    let root = images.store.root();
    let dir = std::fs::File::open(root).map_err(ImageError::io("open", root))?;
    let synced = rustix::fs::syncfs(&dir).map_err(std::io::Error::from).and_then(|()| fault::fails("image-sync"));
    synced.map_err(ImageError::io("sync the file system of", root))?;
    let layers = ready.iter().map(|r| (r.dir.0.clone(), r.record.clone())).collect();
    images.store.publish_layers(layers)
}

/// A directory that goes away unless it has been renamed.
struct TempDir(PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        // What cannot be removed now is swept at the next start.
        let _ = remove_tree(&self.0);
    }
}

/// Opens a session for `reference` with the node's current settings.
pub fn session<'a>(
    images: &'a Images,
    reference: &'a Reference,
    credentials: &[Credential],
) -> Result<Session<'a>, ImageError> {
    Session::new(reference, &*images.settings.current()?, credentials, &images.grants)
}
