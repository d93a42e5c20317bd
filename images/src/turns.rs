//! How pulls and collections that run at the same time keep out of each other's way.

use std::collections::{HashMap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::digest::Sha256;

/// Which pull is at which layer, so that no two download the same.
#[derive(Default)]
pub struct Claims {
    taken: Mutex<HashSet<Sha256>>,
    released: Condvar,
}

/// Layers that this pull is at; released when dropped.
pub struct Claim<'a> {
    claims: &'a Claims,
    pub mine: HashSet<Sha256>,
}

impl Claims {
    /// Takes those that nobody has. It never waits while holding any, so that no two pulls wait for
    /// each other.
    pub fn claim(&self, layers: impl Iterator<Item = Sha256>) -> Claim<'_> {
        let mut taken = lock(&self.taken);
        let mine = layers.filter(|layer| taken.insert(*layer)).collect();
        Claim { claims: self, mine }
    }

    /// Returns when nobody is at `layer`.
    pub fn wait(&self, layer: Sha256) {
        let mut taken = lock(&self.taken);
        while taken.contains(&layer) {
            taken = self.released.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        lock(&self.claims.taken).retain(|layer| !self.mine.contains(layer));
        self.claims.released.notify_all();
    }
}

/// Layers that must not be collected although no image names them yet.
#[derive(Default)]
pub struct Pins(Mutex<HashMap<Sha256, usize>>);

/// Released when dropped.
pub struct Pinned<'a> {
    pins: &'a Pins,
    layers: Vec<Sha256>,
}

impl Pins {
    pub fn pin(&self, layers: impl Iterator<Item = Sha256>) -> Pinned<'_> {
        let layers: Vec<Sha256> = layers.collect();
        let mut counts = lock(&self.0);
        for layer in &layers {
            *counts.entry(*layer).or_default() += 1;
        }
        Pinned { pins: self, layers }
    }

    /// Keeps pins from being made or released while it is held.
    pub fn freeze(&self) -> MutexGuard<'_, HashMap<Sha256, usize>> {
        lock(&self.0)
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        let mut counts = lock(&self.pins.0);
        for layer in &self.layers {
            if let Some(count) = counts.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(layer);
                }
            }
        }
    }
}

/// A counting semaphore: layers in work at once.
pub struct Permits {
    free: Mutex<usize>,
    returned: Condvar,
}

pub struct Permit<'a>(&'a Permits);

impl Permits {
    pub fn new(count: usize) -> Permits {
        Permits { free: Mutex::new(count.max(1)), returned: Condvar::new() }
    }

    pub fn take(&self) -> Permit<'_> {
        let mut free = lock(&self.free);
        while *free == 0 {
            free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.returned.notify_one();
    }
}

/// What is kept under these locks is right between any two statements, also after a panic.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
