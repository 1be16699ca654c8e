//! What candle leaves to the driver: devices by their UUIDs, and their memory pools.

use candle_core::cuda::CudaDevice;
use candle_core::cuda::cudarc::driver::{CudaContext, DriverError, result, sys};
use candle_core::cuda_backend::WrapErr;
use candle_core::{Device, Error};

use super::gpu::{GpuError, Pool};
use crate::nn::NnError;

/// Opens the device with this UUID; also gives its compute capability.
pub(super) fn open(uuid: &str) -> Result<(Device, (u32, u32)), GpuError> {
    let fault = |fault: NnError| GpuError::Open { device: uuid.to_owned(), fault };
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

fn open_number(number: usize) -> Result<(Device, (u32, u32)), NnError> {
    let device = Device::new_cuda_with_stream(number)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: events order the uses of memory between streams. Everything on this device is done on the one stream that
    // was just made, which orders it, and no memory of the device exists yet.
    unsafe { cuda.disable_event_tracking() };
    let (major, minor) = cuda.cuda_stream().context().compute_capability().w()?;
    let number = |part: i32| u32::try_from(part).unwrap_or_default();
    Ok((device, (number(major), number(minor))))
}

/// See [`Gpu::settle`](super::Gpu::settle).
pub(super) fn settle(device: &CudaDevice) -> Result<(), NnError> {
    let stream = device.cuda_stream();
    let context = stream.context();
    // Errors of frees are kept for the next call, which has nothing to do with them. One that lasts is back at once.
    let _ = context.check_err();
    stream.synchronize().w()?;
    // SAFETY: the device is one that the driver has given, and the pool is that of the device, which lives as long as
    // the driver does.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device()).w()?;
        result::mem_pool::trim_to(pool, 0).w()?;
    }
    Ok(())
}

/// See [`Gpu::pool`](super::Gpu::pool).
pub(super) fn pool(device: &CudaDevice) -> Result<Pool, NnError> {
    let device = device.cuda_stream().context().cu_device();
    let read = |attribute| -> Result<u64, NnError> {
        let mut value = 0_u64;
        // SAFETY: the pool is that of a device which the driver has given, and both attributes are numbers of 64 bits.
        unsafe {
            let pool = result::device::get_default_mem_pool(device).w()?;
            result::mem_pool::get_attribute(pool, attribute, (&raw mut value).cast()).w()?;
        }
        Ok(value)
    };
    Ok(Pool {
        used: read(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?,
        reserved: read(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?,
    })
}

/// The digits of a UUID, without what kind of device it is and where its dashes are.
fn digits(uuid: &str) -> String {
    let uuid = uuid.split_once('-').filter(|(kind, _)| ["GPU", "MIG"].contains(kind)).map_or(uuid, |(_, rest)| rest);
    uuid.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_ascii_lowercase()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
