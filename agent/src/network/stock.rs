//! The stock of ready-made namespaces, so that a pod's start does not wait for the kernel.

use std::net::Ipv4Addr;
use std::thread;

use super::error::NetworkError;
use super::netlink::Socket;
use super::{Network, State, plan, veth};

/// Namespaces kept ready-made, so that a pod's start does not wait for the kernel to make one. Each
/// costs an address and some 100 KiB of kernel memory.
const STOCK: usize = 4;

impl Network {
    /// The address of a whole namespace in stock, made on the spot when there is none.
    pub(super) fn take_stock(&self, state: &mut State, node: &mut Socket) -> Result<Ipv4Addr, NetworkError> {
        let (cidr, uplink) = state.configured()?;
        let records = &self.shared.records;
        while let Some(&ip) = state.stock.first() {
            let pin = records.stock_pin(ip);
            if veth::is_whole(&pin, ip, node) {
                return Ok(ip);
            }
            veth::remove(&pin, ip)?;
            state.stock.remove(&ip);
        }
        let ip = plan::lowest_free(cidr, &state.used()).ok_or(NetworkError::AddressesUsedUp(cidr))?;
        veth::make(&records.stock_pin(ip), ip, &uplink)?;
        state.stock.insert(ip);
        Ok(ip)
    }

    /// Removes from the stock what is not of the pod network (any more).
    pub(super) fn drop_foreign_stock(&self) -> Result<(), NetworkError> {
        let mut state = self.state();
        let cidr = state.node.as_ref().and_then(|(n, _)| n.pod_cidr);
        let foreign: Vec<_> =
            state.stock.iter().filter(|a| !cidr.is_some_and(|c| plan::contains(c, **a))).copied().collect();
        NetworkError::collect(foreign.into_iter().map(|address| {
            state.stock.remove(&address);
            veth::remove(&self.shared.records.stock_pin(address), address)
        }))
    }

    /// Fills the stock in the background; does nothing when that is under way.
    pub(super) fn fill_stock(&self) {
        let mut state = self.state();
        if state.filling {
            return;
        }
        let network = self.clone();
        let fill = move || while network.add_to_stock() {};
        // Without a thread a pod's start makes its namespace itself: slower, not wrong.
        state.filler = thread::Builder::new().name("netns-stock".into()).spawn(fill).ok();
        state.filling = state.filler.is_some();
    }

    /// Waits until the stock is full, or as full as it gets.
    pub fn wait_for_stock(&self) {
        let filler = self.state().filler.take();
        if let Some(filler) = filler {
            // A panic there was reported there.
            let _ = filler.join();
        }
    }

    /// Makes one more namespace for the stock. False when there are enough, or none can be made: then
    /// the pod that needs one reports why.
    fn add_to_stock(&self) -> bool {
        let mut state = self.state();
        let free = state.configured().ok().filter(|_| state.stock.len() < STOCK).and_then(|(cidr, uplink)| {
            let address = plan::lowest_free(cidr, &state.used())?;
            Some((address, uplink))
        });
        let Some((address, uplink)) = free else {
            state.filling = false;
            return false;
        };
        state.making = Some(address);
        drop(state);
        let made = veth::make(&self.shared.records.stock_pin(address), address, &uplink).is_ok();
        let mut state = self.state();
        state.making = None;
        if made {
            state.stock.insert(address);
        } else {
            state.filling = false;
        }
        made
    }
}
