//! Fuses the finished outputs of one collection, shard by shard.
//!
//! Rows, their order and all that the input said of them come from the published ledger; each member's rows are held
//! against it one by one. Memory is that of one shard a member and the fused shard.

use std::path::Path;

use super::error::FuseError;
use super::member::MemberReader;
use super::plan::{FUSED, MemberShape, Method, plan};
use super::space;
use super::status::fused_status;
use super::vector::{Part, VectorFault, fuse_vectors};
use super::weights::{Member, normalized_weights};
use crate::config::Format;
use crate::domain::{CollectionName, Row, RowRecord, RowStatus, Shard, Widths};
use crate::output::{
    CollectionWriter, Committed, CommittedShard, Existing, InputRow, Ledger, Manifest, OpenError, Opened, Plan,
};

/// What to fuse, and how.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Output root, whose [`OutputLock`](crate::output::OutputLock) the caller holds.
    pub output_dir: &'a Path,
    /// The collection; every member must be complete for it.
    pub collection: &'a CollectionName,
    /// How the vectors become one.
    pub method: Method,
    /// Whose vectors, in order; the first is the primary, whose token counts are taken.
    pub members: &'a [Member],
    /// Formats of the fused output.
    pub formats: &'a [Format],
    /// Rows of its shards; members may have others.
    pub shard_rows: u32,
    /// What to do with a fused output that is there.
    pub existing: Existing,
}

/// How far fusing has come, for the caller to tell.
pub enum Step<'a> {
    /// The output is open; first, and once.
    Opened {
        /// With what is there already.
        opened: &'a Opened,
        /// Why what was there has been thrown away, if it was.
        rebuilt: Option<Rebuilt>,
    },
    /// The members have vectors, and yet the row has none. Rows that failed in a member are not told again.
    RowFailed {
        /// The row.
        row: Row,
        /// What the ledger says of the chunk, with the status and the reason of the failure.
        record: &'a RowRecord,
        /// What went wrong, in lower case.
        reason: &'a str,
    },
    /// A shard is committed.
    Committed(&'a CommittedShard),
}

/// Why a fused output that was there was made anew instead of being gone on with, though it was made in the same way: it
/// has nothing that its members have not, and would be wrong beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebuilt {
    /// Members were embedded again since.
    MembersChanged,
    /// Members and ledger are of another input by now.
    InputChanged,
}

/// Writes the fused output of a collection, or what is left of it to write. Stops between two shards when asked to; the
/// manifest that is returned is then not `complete`, and the same request goes on.
///
/// # Errors
/// When members cannot be fused, do not belong together, or files cannot be read or written.
pub fn fuse(
    request: &Request<'_>,
    should_stop: &dyn Fn() -> bool,
    on_step: &mut dyn FnMut(Step<'_>),
) -> Result<Manifest, FuseError> {
    let weights = normalized_weights(request.members)?;
    let members = request.members.iter();
    let members = members.map(|member| MemberReader::open(request.output_dir, request.collection, &member.model));
    let members: Vec<_> = members.collect::<Result<_, _>>()?;
    let output_plan = output_plan(request, &members, &weights)?;
    let mut ledger = Ledger::open(request.output_dir, request.collection)?;
    members.iter().try_for_each(|member| member.check_input(ledger.manifest()))?;
    let (opened, rebuilt) = open_output(request, output_plan)?;
    on_step(Step::Opened { opened: &opened, rebuilt });
    let mut writer = opened.writer;
    if opened.complete {
        return Ok(writer.manifest().clone());
    }
    skip(&mut ledger, &opened.committed, request.collection)?;
    let rows = ledger.manifest().rows;
    let mut fuser = Fuser { request, members, weights, ledger };
    while writer.manifest().totals.rows < rows {
        if should_stop() {
            return Ok(writer.manifest().clone());
        }
        let shard = fuser.next_shard(writer.manifest(), on_step)?;
        on_step(Step::Committed(writer.commit(&shard)?));
    }
    let input = fuser.members.first().and_then(|primary| primary.manifest.input).unwrap_or_default();
    Ok(writer.finish(input)?)
}

fn output_plan(request: &Request<'_>, members: &[MemberReader], weights: &[f64]) -> Result<Plan, FuseError> {
    let manifests = || members.iter().map(|member| &member.manifest);
    let shape = |member: &Manifest| MemberShape { model: member.model.clone(), dimension: member.dimension };
    let dimension = plan(request.method, &manifests().map(shape).collect::<Vec<_>>())?;
    let weighted: Vec<_> = manifests().zip(weights.iter().copied()).collect();
    Ok(Plan {
        model: FUSED.to_owned(),
        vector_space: space::vector_space(request.method, &weighted).to_string(),
        widths: Widths::dense(dimension),
        shard_rows: request.shard_rows,
        formats: request.formats.to_vec(),
        provenance: space::provenance(request.method, &weighted),
        existing: request.existing,
        share: None,
    })
}

/// Opens the fused output, anew where going on would mix what its members were with what they are.
fn open_output(request: &Request<'_>, output_plan: Plan) -> Result<(Opened, Option<Rebuilt>), FuseError> {
    let open = |plan: &Plan| CollectionWriter::open_derived(request.output_dir, request.collection, plan);
    let rebuilt = match open(&output_plan) {
        Ok(opened) if opened.writer.manifest().provenance == output_plan.provenance => return Ok((opened, None)),
        Ok(_) => Rebuilt::MembersChanged,
        Err(OpenError::InputDiffers { .. }) => Rebuilt::InputChanged,
        Err(error) => return Err(error.into()),
    };
    let opened = open(&Plan { existing: Existing::Overwrite, ..output_plan })?;
    Ok((opened, Some(rebuilt)))
}

/// Passes over the rows that are fused already, which must be those that they were.
fn skip(ledger: &mut Ledger, committed: &Committed, collection: &CollectionName) -> Result<(), FuseError> {
    let input = |source| FuseError::Input { collection: collection.clone(), source };
    let mut check = committed.check();
    for _ in 0..committed.rows() {
        let Some(record) = ledger.next().transpose()? else { break };
        check.push(&InputRow::from(&record)).map_err(input)?;
    }
    check.finish().map_err(input)
}

struct Fuser<'a> {
    request: &'a Request<'a>,
    members: Vec<MemberReader>,
    weights: Vec<f64>,
    /// At the first row that is not fused yet.
    ledger: Ledger,
}

impl Fuser<'_> {
    /// The shard that comes next by a manifest.
    fn next_shard(&mut self, manifest: &Manifest, on_step: &mut dyn FnMut(Step<'_>)) -> Result<Shard, FuseError> {
        let mut shard = Shard {
            number: u32::try_from(manifest.shards.len()).unwrap_or(u32::MAX),
            first_row: Row(manifest.totals.rows),
            dimension: manifest.dimension,
            records: Vec::new(),
            vectors: Vec::new(),
            sparse: None,
            multi: None,
        };
        for row in (manifest.totals.rows..).take(manifest.shard_rows as usize) {
            let Some(mut record) = self.ledger.next().transpose()? else { break };
            let start = shard.vectors.len();
            shard.vectors.resize(start + manifest.dimension, f32::NAN);
            if let Some(reason) = self.fuse_row(row, &mut record, &mut shard.vectors[start..])? {
                on_step(Step::RowFailed { row: Row(row), record: &record, reason: &reason });
            }
            shard.records.push(record);
        }
        Ok(shard)
    }

    /// Turns the ledger's record of a row into that of the fused row, and writes its vector if it has one. Returns why it
    /// has none, if that is not a member's doing.
    fn fuse_row(&mut self, row: u64, record: &mut RowRecord, vector: &mut [f32]) -> Result<Option<String>, FuseError> {
        let (mut statuses, mut parts, mut tokens) = (Vec::new(), Vec::new(), None);
        for (member, &weight) in self.members.iter_mut().zip(&self.weights) {
            let found = member.row(row, record)?;
            tokens.get_or_insert(found.tokens);
            statuses.push(found.status);
            parts.push(Part { vector: found.vector, weight });
        }
        record.status = fused_status(statuses);
        record.error = None;
        let fault = match record.status.has_vector().then(|| fuse_vectors(self.request.method, &parts, vector)) {
            Some(Err(fault)) => Some(self.reason(fault)),
            Some(Ok(())) | None => None,
        };
        if let Some(reason) = &fault {
            record.status = RowStatus::Failed;
            record.error = Some(reason.clone());
        }
        record.tokens = tokens.unwrap_or_default();
        if !record.status.has_vector() {
            record.tokens_truncated = 0;
        }
        Ok(fault)
    }

    fn reason(&self, fault: VectorFault) -> String {
        match fault {
            VectorFault::Member { index } => {
                let model = self.members.get(index).map_or("a model", |member| &member.manifest.model);
                format!("the vector of {model} is zero or not finite")
            }
            VectorFault::Cancelled => "the vectors of the models cancel each other out".to_owned(),
        }
    }
}
