//! The 85 % rule: a model is loaded only if what is used, its weights, the activations of its batches and what a device
//! needs besides stay within 85 % of the device's memory.

use crate::domain::Bytes;
use crate::model::Footprint;

/// Part of a device's memory that is planned with. The rest is for what nobody foresees: fragmentation, other programs.
pub const MEMORY_PART: f64 = 0.85;

/// Cards of 16 GB, which serve a little less than 16 GiB.
const SIXTEEN_GB: std::ops::RangeInclusive<f64> = 14.0..=16.5;

/// Most memory of one process on such a card, in GiB: notebooks that lend them end a process which takes much more.
const SOFT_LIMIT_OF_SIXTEEN_GB: f64 = 12.0;

/// A context of CUDA with the workspaces of its libraries: 300 to 500 MiB on the cards in use.
const GPU_OVERHEAD: Bytes = Bytes::mib(512);

/// Code, tokenizers, shards in flight: about 250 MiB were measured with a small model, its weights included.
const CPU_OVERHEAD: Bytes = Bytes::mib(256);

/// Whose memory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryKind {
    /// The machine's.
    Host,
    /// A GPU's own, for which limits are known.
    Gpu,
}

impl MemoryKind {
    /// Contexts, libraries, code.
    pub const fn overhead(self) -> Bytes {
        match self {
            Self::Host => CPU_OVERHEAD,
            Self::Gpu => GPU_OVERHEAD,
        }
    }
}

/// The memory of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Whose it is.
    pub kind: MemoryKind,
    /// All there is.
    pub total: Option<Bytes>,
    /// Held by anyone.
    pub used: Option<Bytes>,
}

/// What is kept free.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Most memory of this process, in GiB.
    pub soft_limit_gb: Option<f64>,
    /// Left free in addition.
    pub buffer: Bytes,
}

/// How a model is to run on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FitRequest {
    /// Longest sequence, in tokens.
    pub max_length: usize,
    /// Most tokens in a batch of several sequences.
    pub batch_tokens: usize,
    /// Batches under way at the same time.
    pub workers: usize,
    /// Models whose batches are under way at the same time, this one included.
    pub residents: usize,
}

/// Whether models fit on a device, and what of it they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// All weights.
    pub weights: Bytes,
    /// Activations of all batches under way.
    pub activations: Bytes,
    /// Contexts, libraries, code and the buffer.
    pub overhead: Bytes,
    /// What may be used, everything that is used already included; unknown if the device's memory is.
    pub budget: Option<Bytes>,
    /// Most sequences of the greatest length that a batch has room for; that of the batch's tokens where memory is
    /// unknown.
    pub batch_size: usize,
    /// Whether there is room for at least one sequence.
    pub fits: bool,
}

/// Compares a model, with the `others` that stay loaded beside it, with the memory of a device.
pub fn fit(model: &Footprint, others: &[&Footprint], request: FitRequest, memory: DeviceMemory, rules: Rules) -> Fit {
    let weights = others.iter().map(|other| other.weights.0).sum::<u64>().saturating_add(model.weights.0);
    let sequence = model.activations(request.max_length, request.max_length).0.max(1);
    let shares = (request.workers.max(1) * request.residents.max(1)) as u64;
    let overhead = Bytes(memory.kind.overhead().0.saturating_add(rules.buffer.0));
    let used = memory.used.unwrap_or_default();
    let budget = memory.total.map(|total| budget(total, used, memory.kind, rules));
    let batch_size = match budget {
        None => request.batch_tokens,
        Some(budget) => {
            let left = budget.saturating_sub(used).saturating_sub(Bytes(weights)).saturating_sub(overhead);
            usize::try_from(left.0 / shares / sequence).unwrap_or(usize::MAX)
        }
    };
    // A batch has as many sequences as its tokens allow, and one in any case.
    let tokens = request.batch_tokens.max(request.max_length).min(batch_size.max(1).saturating_mul(request.max_length));
    let batch = model.activations(tokens, request.max_length);
    Fit {
        weights: Bytes(weights),
        activations: Bytes(batch.0.saturating_mul(request.workers.max(1) as u64)),
        overhead,
        budget,
        batch_size: batch_size.max(1),
        fits: batch_size > 0,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "parts of a number of bytes")]
fn budget(total: Bytes, used: Bytes, kind: MemoryKind, rules: Rules) -> Bytes {
    let part = Bytes((total.0 as f64 * MEMORY_PART) as u64);
    soft_limit(total, kind, rules).map_or(part, |limit| part.min(Bytes(used.0.saturating_add(limit.0))))
}

/// Most memory of this process on a device with so much in all, if there is a limit.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a sensible number of bytes")]
pub fn soft_limit(total: Bytes, kind: MemoryKind, rules: Rules) -> Option<Bytes> {
    let of_such_cards =
        || (kind == MemoryKind::Gpu && SIXTEEN_GB.contains(&total.gib())).then_some(SOFT_LIMIT_OF_SIXTEEN_GB);
    let gib = (1_u64 << 30) as f64;
    rules.soft_limit_gb.or_else(of_such_cards).map(|limit| Bytes((limit * gib) as u64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn model(weights_gib: u64) -> Footprint {
        // 1 MiB a token, nothing for pairs of tokens: 100 MiB a sequence of 100.
        Footprint { weights: Bytes(weights_gib * GIB), token_bytes: 1 << 20, hidden_bytes: 0, pair_bytes: 0 }
    }

    fn request(residents: usize) -> FitRequest {
        FitRequest { max_length: 100, batch_tokens: 1000, workers: 1, residents }
    }

    fn rules(soft_limit_gb: Option<f64>) -> Rules {
        // With the overhead of a GPU, 1 GiB.
        Rules { soft_limit_gb, buffer: Bytes(GIB).saturating_sub(MemoryKind::Gpu.overhead()) }
    }

    fn memory(total_gib: u64, used_gib: u64) -> DeviceMemory {
        DeviceMemory { kind: MemoryKind::Gpu, total: Some(Bytes(total_gib * GIB)), used: Some(Bytes(used_gib * GIB)) }
    }

    #[track_caller]
    fn check(
        total_gib: u64,
        used_gib: u64,
        weights_gib: u64,
        soft_limit_gb: Option<f64>,
        batch_size: usize,
        fits: bool,
    ) {
        let fit = fit(&model(weights_gib), &[], request(1), memory(total_gib, used_gib), rules(soft_limit_gb));
        assert_eq!((fit.batch_size, fit.fits), (batch_size, fits), "{fit:?}");
    }

    #[test]
    fn a_model_fits_within_85_percent() {
        // 17 of 20 GiB, less 1 for overhead: 16 for weights and activations.
        check(20, 0, 6, None, 102, true);
        check(20, 10, 6, None, 1, false);
        check(20, 0, 16, None, 1, false);
        check(20, 9, 6, None, 10, true);
        // Cards of 16 GB have a lower limit of their own, above what others use.
        check(16, 0, 8, None, 30, true);
        check(16, 0, 8, Some(13.0), 40, true);
        check(16, 2, 8, None, 26, true);
        check(20, 0, 6, Some(8.0), 10, true);
    }

    #[test]
    fn the_arithmetic_is_told() {
        let fit = fit(&model(6), &[&model(2)], request(2), memory(20, 0), rules(None));
        assert_eq!((fit.weights, fit.overhead, fit.budget), (Bytes(8 * GIB), Bytes(GIB), Some(Bytes(17 * GIB))));
        assert_eq!(fit.activations, Bytes(1000 << 20));
        assert_eq!(fit.batch_size, 40, "8 GiB are left for the batches of two models");
    }

    #[test]
    fn unknown_memory_is_no_reason_to_refuse() {
        let fit = fit(
            &model(6),
            &[],
            request(1),
            DeviceMemory { kind: MemoryKind::Gpu, total: None, used: None },
            rules(None),
        );
        assert!(fit.fits && fit.budget.is_none() && fit.batch_size == 1000);
    }

    proptest! {
        #[test]
        fn a_model_alone_gets_larger_batches_than_beside_others(
            total in 8_u64..200, used in 0_u64..8, weights in 1_u64..8, other in 1_u64..8,
        ) {
            let alone = fit(&model(weights), &[], request(1), memory(total, used), rules(None));
            let beside = fit(&model(weights), &[&model(other)], request(2), memory(total, used), rules(None));
            prop_assert!(alone.fits || !beside.fits);
            if beside.fits {
                prop_assert!(alone.batch_size > beside.batch_size);
            }
        }

        #[test]
        fn what_fits_stays_within_the_budget(
            total in 4_u64..200, used in 0_u64..50, weights in 0_u64..50, workers in 1_usize..8,
        ) {
            let request = FitRequest { workers, ..request(1) };
            let fit = fit(&model(weights), &[], request, memory(total, used), rules(None));
            let needed = used * GIB + fit.weights.0 + fit.overhead.0 + fit.activations.0;
            prop_assert!(!fit.fits || needed <= fit.budget.unwrap().0);
            prop_assert!(fit.budget.unwrap().0 <= total * GIB * 85 / 100 + 1);
        }
    }
}
