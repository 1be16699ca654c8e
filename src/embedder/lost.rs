//! Which devices were lost during a pass.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::slot::DeviceSlot;
use crate::device::DeviceUuid;

/// One flag a device.
pub(super) struct LostFlags(BTreeMap<DeviceUuid, Arc<AtomicBool>>);

impl LostFlags {
    pub(super) fn new(places: &[DeviceSlot]) -> Self {
        Self(places.iter().map(|place| (place.uuid.clone(), Arc::default())).collect())
    }

    pub(super) fn of(&self, place: &DeviceSlot) -> Arc<AtomicBool> {
        self.0.get(&place.uuid).cloned().unwrap_or_default()
    }

    /// Marks a device as lost; `true` for the first caller, who reports it.
    pub(super) fn note(&self, uuid: &DeviceUuid) -> bool {
        self.0.get(uuid).is_none_or(|lost| !lost.swap(true, Ordering::SeqCst))
    }
}
