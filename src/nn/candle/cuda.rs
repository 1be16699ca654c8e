//! What candle leaves to the driver: devices by their UUIDs, their memory pools, and errors of work that was begun.
//!
//! Written against the sources of candle-core 0.11 and cudarc 0.19.

use std::sync::Arc;

use candle_core::cuda::CudaDevice;
use candle_core::cuda::cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};
use candle_core::cuda_backend::WrapErr;
use candle_core::{Device, Error, Storage, Tensor};

use super::gpu::{GpuError, Pool};
use crate::nn::{NnError, Pending};

/// Opens the device with this UUID; also gives its compute capability.
pub(super) fn open(uuid: &str) -> Result<(Device, Copies, (u32, u32)), GpuError> {
    let fault = |fault: NnError| GpuError::Open { device: uuid.to_owned(), fault: Box::new(fault) };
    let driver = |error: DriverError| fault(NnError::from(Error::from(candle_core::cuda::CudaError::Cuda(error))));
    let count = CudaContext::device_count().map_err(driver)?;
    let mut known = Vec::new();
    for number in 0..count {
        let found = result::device::get(number).and_then(result::device::get_uuid).map_err(driver)?;
        let found = hexadecimal(&found.bytes.map(|byte| byte.to_ne_bytes()[0]));
        if digits(uuid) == digits(&found) {
            return open_number(usize::try_from(number).unwrap_or_default()).map_err(fault);
        }
        known.push(found);
    }
    let known = if known.is_empty() { "no device".to_owned() } else { known.join(", ") };
    Err(GpuError::Unknown { uuid: uuid.to_owned(), known })
}

fn open_number(number: usize) -> Result<(Device, Copies, (u32, u32)), NnError> {
    let device = Device::new_cuda_with_stream(number)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: events order the uses of memory between streams. Everything on this device is done on the one stream that
    // was just made, which orders it, but for copies that wait for an event of their own (`Copies`); and no memory of the
    // device exists yet.
    unsafe { cuda.disable_event_tracking() };
    // By default the pool releases everything at each synchronisation, and the next batch would allocate it again.
    set(cuda, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX)?;
    let (major, minor) = cuda.cuda_stream().context().compute_capability().w()?;
    let number = |part: i32| u32::try_from(part).unwrap_or_default();
    let copies = Copies(cuda.cuda_stream().context().new_stream().w()?);
    Ok((device, copies, (number(major), number(minor))))
}

/// A stream for copies of results to the host. On that of the work they would wait for everything that was begun since.
#[derive(Debug, Clone)]
pub(super) struct Copies(Arc<CudaStream>);

impl Copies {
    /// The numbers of a contiguous tensor in f32, once they are computed. What failed until then is an error.
    pub(super) fn later(&self, tensor: Tensor) -> Result<Pending, NnError> {
        let computed = tensor.device().as_cuda_device()?.cuda_stream().record_event(None).w()?;
        let copies = Arc::clone(&self.0);
        Ok(Pending::new(move || {
            // Before this the memory is not what it will be; after it nothing writes there while the tensor lives.
            computed.synchronize().w()?;
            let (storage, layout) = tensor.storage_and_layout();
            let Storage::Cuda(storage) = &*storage else {
                return Err(Error::Msg("a tensor of a GPU is elsewhere".into()).into());
            };
            let (first, end) = layout.contiguous_offsets().unwrap_or_default();
            let values = copies.clone_dtoh(&storage.as_cuda_slice::<f32>()?.slice(first..end)).w()?;
            // cudarc reports an error of its copy at the next call: without this one, results of failed work would pass.
            copies.synchronize().w()?;
            Ok(values)
        }))
    }
}

/// See [`Gpu::settle`](super::Gpu::settle).
pub(super) fn settle(device: &CudaDevice) -> Result<(), NnError> {
    let stream = device.cuda_stream();
    // Errors of frees are kept for the next call, which has nothing to do with them. One that lasts is back at once.
    let _ = stream.context().check_err();
    stream.synchronize().w()?;
    if let Some(pool) = default_pool(device)? {
        // SAFETY: the pool is that of an open device, see `default_pool`.
        unsafe { result::mem_pool::trim_to(pool, 0).w()? };
    }
    Ok(())
}

/// See [`Gpu::pool`](super::Gpu::pool). `None` where the device has no pools.
pub(super) fn pool(device: &CudaDevice) -> Result<Option<Pool>, NnError> {
    use sys::CUmemPool_attribute::{CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_CURRENT};
    let used = get(device, CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
    let reserved = get(device, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
    Ok(used.zip(reserved).map(|(used, reserved)| Pool { used, reserved }))
}

/// The most that tensors took since this was asked before. `None` where the device has no pools.
pub(super) fn take_peak(device: &CudaDevice) -> Result<Option<u64>, NnError> {
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    let peak = get(device, attribute)?;
    // The driver's documentation allows 0 alone: it resets the count.
    set(device, attribute, 0)?;
    Ok(peak)
}

/// The pool from which all memory of the device is taken; `None` where it has none, and memory comes from the driver
/// itself.
fn default_pool(device: &CudaDevice) -> Result<Option<sys::CUmemoryPool>, NnError> {
    let stream = device.cuda_stream();
    if !stream.context().has_async_alloc() {
        return Ok(None);
    }
    // SAFETY: the device is one that the driver has given and that is open. The pool lives as long as the driver does.
    Ok(Some(unsafe { result::device::get_default_mem_pool(stream.context().cu_device()).w()? }))
}

/// An attribute that is a number of bytes.
fn get(device: &CudaDevice, attribute: sys::CUmemPool_attribute) -> Result<Option<u64>, NnError> {
    let Some(pool) = default_pool(device)? else { return Ok(None) };
    let mut bytes = 0_u64;
    // SAFETY: the pool is that of an open device, and all attributes that are asked for here have 64 bits.
    unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()).w()? };
    Ok(Some(bytes))
}

fn set(device: &CudaDevice, attribute: sys::CUmemPool_attribute, bytes: u64) -> Result<(), NnError> {
    let Some(pool) = default_pool(device)? else { return Ok(()) };
    let mut bytes = bytes;
    // SAFETY: as in `get`; the driver reads the number during the call.
    unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut bytes).cast()).w()? };
    Ok(())
}

/// The digits of a UUID, without what kind of device it is and where its dashes are.
fn digits(uuid: &str) -> String {
    let uuid = uuid.split_once('-').filter(|(kind, _)| ["GPU", "MIG"].contains(kind)).map_or(uuid, |(_, rest)| rest);
    uuid.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_ascii_lowercase()
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_the_same_however_it_is_written() {
        let bytes = [0x3f, 0x2b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0xff];
        assert_eq!(digits("GPU-3F2b0001-0203-0405-0607-08090a0b0cff"), hexadecimal(&bytes));
        assert_eq!(digits("MIG-3f2b0001-0203-0405-0607-08090a0b0cff"), digits(&hexadecimal(&bytes)));
    }

    #[test]
    fn sixteen_bytes_of_the_driver_are_thirty_two_digits() {
        let uuid = sys::CUuuid { bytes: [!0; 16] };
        assert_eq!(hexadecimal(&uuid.bytes.map(|byte| byte.to_ne_bytes()[0])), "f".repeat(32));
    }
}
