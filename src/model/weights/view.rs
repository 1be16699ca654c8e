//! Tensors whose numbers do not lie row after row: transposed, every second one, one for many, with the other sign.
//!
//! Such a tensor is gathered when it is wanted, and given as if it had been saved row after row.

use safetensors::Dtype;

/// How the numbers of a tensor lie in its block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    /// Distance of neighbours along each axis, in numbers.
    strides: Vec<usize>,
    /// Whether they are stored with the other sign.
    negated: bool,
}

/// A tensor's place in its block, in numbers.
pub(super) struct Extent {
    pub(super) shape: Vec<usize>,
    /// From the first number to behind the last.
    pub(super) numbers: usize,
    /// How many numbers the tensor has.
    pub(super) count: usize,
    /// None where they lie row after row.
    pub(super) view: Option<View>,
}

impl Extent {
    /// None where the sizes make no sense.
    pub(super) fn new(shape: &[u64], strides: &[u64], negated: bool, dtype: Dtype) -> Option<Self> {
        let whole = |numbers: &[u64]| -> Option<Vec<usize>> {
            numbers.iter().map(|number| usize::try_from(*number).ok()).collect()
        };
        let (shape, mut strides) = (whole(shape)?, whole(strides)?);
        if shape.len() != strides.len() || (negated && !has_sign_bit(dtype)) {
            return None;
        }
        // The stride of an axis of length 1 says nothing, and may be anything.
        strides.iter_mut().zip(&shape).filter(|(_, length)| **length == 1).for_each(|(stride, _)| *stride = 0);
        let count = shape.iter().try_fold(1_usize, |product, length| product.checked_mul(*length))?;
        let last = shape.iter().zip(&strides).try_fold(0_usize, |last, (length, stride)| {
            last.checked_add(length.saturating_sub(1).checked_mul(*stride)?)
        })?;
        let numbers = if count == 0 { 0 } else { last.checked_add(1)? };
        let view = (negated || !is_contiguous(&shape, &strides)).then_some(View { strides, negated });
        Some(Self { shape, numbers, count, view })
    }
}

/// Whether the sign of a number is the highest bit of its last byte and nothing else.
fn has_sign_bit(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
}

/// Whether numbers lie row after row.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1_usize;
    let mut axes = shape.iter().zip(strides).rev().filter(|(length, _)| **length != 1);
    let rows = axes.all(|(length, stride)| {
        let fits = *stride == expected;
        expected = expected.saturating_mul(*length);
        fits
    });
    rows || shape.contains(&0)
}

impl View {
    /// The numbers row after row, from the bytes of the tensor's extent.
    pub(super) fn gather(&self, shape: &[usize], dtype: Dtype, bytes: &[u8]) -> Vec<u8> {
        let size = dtype.bitsize() / 8;
        let count: usize = shape.iter().product();
        let mut out = Vec::with_capacity(count * size);
        let mut index = vec![0_usize; shape.len()];
        let mut first = 0_usize;
        for _ in 0..count {
            out.extend_from_slice(&bytes[first * size..][..size]);
            // To the next number: the last axis first.
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                first += self.strides[axis];
                if index[axis] < shape[axis] {
                    break;
                }
                first -= index[axis] * self.strides[axis];
                index[axis] = 0;
            }
        }
        if self.negated {
            out.chunks_exact_mut(size).for_each(|number| number[size - 1] ^= 0x80);
        }
        out
    }
}
