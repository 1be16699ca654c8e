//! `data.pkl` of a `PyTorch` checkpoint: which tensors there are, read without running anything.
//!
//! A pickle is a program for a small stack machine, and the language's own reader would call whatever it names. This
//! one knows the instructions that `torch.save` writes for a dictionary of tensors, and the few names that appear
//! there; any other is an error. Values are numbers and places in lists, so that nothing is nested and no instruction
//! can make more than a few bytes. Reference: the `pickletools` module of Python, `torch/serialization.py`.

use std::collections::{HashMap, HashSet};

use safetensors::Dtype;

/// A tensor as the pickle describes it; nothing here is checked against the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) name: String,
    /// The entry of the archive that holds its numbers: `data/KEY`.
    pub(super) storage: String,
    pub(super) dtype: Dtype,
    /// Index of its first number in the storage.
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    /// Distance of neighbours along each axis, in numbers.
    pub(super) strides: Vec<u64>,
    /// Whether its numbers are those of the storage with the other sign.
    pub(super) negated: bool,
}

/// What a pickle makes, and where the next one begins.
pub(super) struct Read<T> {
    pub(super) value: T,
    pub(super) end: usize,
}

/// The way out.
const RESAVE: &str = "if you trust it, load it with torch and save its state_dict alone, best as safetensors";

/// Why a pickle is not a dictionary of tensors.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PickleError {
    /// It ends too early.
    #[error("it ends in the middle of an instruction")]
    Truncated,
    /// It has an instruction that a dictionary of tensors does not need.
    #[error(
        "at byte {at}, it has the instruction {code:#04x}, which a dictionary of tensors does not need; {}",
        RESAVE
    )]
    Instruction {
        /// The instruction.
        code: u8,
        /// Where it stands.
        at: usize,
    },
    /// It names a class or function that is not known to be harmless.
    #[error("it names {name}, and only tensors in a dictionary are read; {}", RESAVE)]
    Name {
        /// Module and name.
        name: String,
    },
    /// The instructions make no sense.
    #[error("at byte {at}, {what}")]
    Senseless {
        /// What is wrong.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// The dictionary holds something else.
    #[error("{key:?} is not a tensor; {}", RESAVE)]
    NotTensor {
        /// Its key.
        key: String,
    },
}

/// The tensors of a pickle, in its order.
pub(super) fn tensors(pickle: &[u8]) -> Result<Vec<Described>, PickleError> {
    Ok(Machine::run(pickle)?.result()?.value)
}

/// The same of a pickle that others follow.
pub(super) fn first_tensors(pickles: &[u8]) -> Result<Read<Vec<Described>>, PickleError> {
    Machine::run(pickles)?.result()
}

/// A list of texts, of a pickle that others may follow.
pub(super) fn first_texts(pickles: &[u8]) -> Result<Read<Vec<&str>>, PickleError> {
    let mut machine = Machine::run(pickles)?;
    let Value::List(list) = machine.pop()? else { return Err(machine.senseless("what it makes is no list")) };
    let texts = machine.lists[list].iter().map(|value| match value {
        Value::Text(text) => Some(*text),
        _ => None,
    });
    let value = texts.collect::<Option<_>>().ok_or_else(|| machine.senseless("a list holds more than texts"))?;
    Ok(Read { value, end: machine.at })
}

/// What a dictionary says under a key, of a pickle that others may follow.
pub(super) fn first_truth(pickles: &[u8], key: &str) -> Result<Read<Option<bool>>, PickleError> {
    let mut machine = Machine::run(pickles)?;
    let Value::Dictionary(dictionary) = machine.pop()? else {
        return Err(machine.senseless("what it makes is no dictionary"));
    };
    let value = machine.dictionaries[dictionary].iter().find_map(|entry| match entry {
        (Value::Text(found), Value::Truth(value)) if *found == key => Some(*value),
        _ => None,
    });
    Ok(Read { value, end: machine.at })
}

#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Mark,
    /// None or a floating-point number: nothing that a tensor is made of.
    Other,
    Truth(bool),
    Integer(i64),
    Text(&'a str),
    /// Index into the tuples.
    Tuple(usize),
    /// Index into the dictionaries.
    Dictionary(usize),
    /// Index into the lists.
    List(usize),
    Name(Name),
    /// Index into the storages.
    Storage(usize),
    /// Index into the tensors.
    Tensor(usize),
}

/// What a pickle may name.
#[derive(Debug, Clone, Copy)]
enum Name {
    OrderedDictionary,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

impl Name {
    fn of(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDictionary,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "FloatStorage") => Self::Storage(Dtype::F32),
            ("torch", "HalfStorage") => Self::Storage(Dtype::F16),
            ("torch", "BFloat16Storage") => Self::Storage(Dtype::BF16),
            ("torch", "DoubleStorage") => Self::Storage(Dtype::F64),
            ("torch", "LongStorage") => Self::Storage(Dtype::I64),
            ("torch", "IntStorage") => Self::Storage(Dtype::I32),
            ("torch", "ShortStorage") => Self::Storage(Dtype::I16),
            ("torch", "CharStorage") => Self::Storage(Dtype::I8),
            ("torch", "ByteStorage") => Self::Storage(Dtype::U8),
            ("torch", "BoolStorage") => Self::Storage(Dtype::BOOL),
            _ => return None,
        })
    }
}

struct Storage<'a> {
    key: &'a str,
    dtype: Dtype,
}

struct Tensor {
    storage: usize,
    offset: u64,
    shape: Vec<u64>,
    strides: Vec<u64>,
    negated: bool,
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    memory: HashMap<u32, Value<'a>>,
    tuples: Vec<Vec<Value<'a>>>,
    dictionaries: Vec<Vec<(Value<'a>, Value<'a>)>>,
    lists: Vec<Vec<Value<'a>>>,
    storages: Vec<Storage<'a>>,
    tensors: Vec<Tensor>,
}

impl<'a> Machine<'a> {
    fn run(bytes: &'a [u8]) -> Result<Self, PickleError> {
        let mut machine = Self { bytes, ..Self::default() };
        while !machine.step()? {}
        Ok(machine)
    }

    /// Runs one instruction; true at the end.
    fn step(&mut self) -> Result<bool, PickleError> {
        let start = self.at;
        let code = self.take(1)?[0];
        match code {
            // The protocol; later ones write other instructions.
            0x80 => _ = self.take(1)?,
            b'}' => self.dictionary(Vec::new()),
            b']' => {
                self.stack.push(Value::List(self.lists.len()));
                self.lists.push(Vec::new());
            }
            b'a' => {
                let value = self.pop()?;
                let list = self.top_list()?;
                self.lists[list].push(value);
            }
            b'e' => {
                let values = self.since_mark()?;
                let list = self.top_list()?;
                self.lists[list].extend(values);
            }
            b'N' => self.stack.push(Value::Other),
            0x88 | 0x89 => self.stack.push(Value::Truth(code == 0x88)),
            b'G' => {
                self.take(8)?;
                self.stack.push(Value::Other);
            }
            b')' => self.tuple(Vec::new()),
            b'(' => self.stack.push(Value::Mark),
            b't' => {
                let parts = self.since_mark()?;
                self.tuple(parts);
            }
            0x85..=0x87 => {
                let count = usize::from(code - 0x84);
                let first = self.stack.len().checked_sub(count).ok_or_else(|| self.senseless("a tuple lacks parts"))?;
                let parts = self.stack.split_off(first);
                self.tuple(parts);
            }
            b'q' => self.remember(1)?,
            b'r' => self.remember(4)?,
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            b'K' => self.integer(1)?,
            b'M' => self.integer(2)?,
            b'J' => {
                let bytes = self.take(4)?;
                self.stack.push(Value::Integer(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).into()));
            }
            0x8a => self.long()?,
            b'X' => {
                let length = self.number(4)?;
                let text = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
                let text = std::str::from_utf8(text).map_err(|_| self.senseless("a text is not UTF-8"))?;
                self.stack.push(Value::Text(text));
            }
            b'c' => self.name()?,
            b'Q' => self.storage()?,
            b'R' => self.call()?,
            // Attributes of the dictionary, such as the versions of modules.
            b'b' => {
                self.pop()?;
                self.top_dictionary()?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                let dictionary = self.top_dictionary()?;
                self.dictionaries[dictionary].push((key, value));
            }
            b'u' => {
                let entries = self.since_mark()?;
                let dictionary = self.top_dictionary()?;
                self.dictionaries[dictionary]
                    .extend(entries.as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value)));
            }
            b'.' => return Ok(true),
            code => return Err(PickleError::Instruction { code, at: start }),
        }
        Ok(false)
    }

    fn result(mut self) -> Result<Read<Vec<Described>>, PickleError> {
        let Value::Dictionary(dictionary) = self.pop()? else {
            return Err(self.senseless("what it makes is no dictionary"));
        };
        let mut described = Vec::new();
        let mut names = HashSet::new();
        for (key, value) in &self.dictionaries[dictionary] {
            let Value::Text(name) = *key else { return Err(self.senseless("a key of the dictionary is no text")) };
            let tensor = match *value {
                Value::Tensor(tensor) => tensor,
                // Such as the number of an epoch: no part of any layer.
                Value::Integer(_) | Value::Text(_) | Value::Truth(_) | Value::Other => continue,
                _ => return Err(PickleError::NotTensor { key: name.to_owned() }),
            };
            // A long name recalled many times over would fill the memory.
            if !names.insert(name) {
                return Err(self.senseless("a tensor is there twice"));
            }
            let tensor = &self.tensors[tensor];
            let storage = &self.storages[tensor.storage];
            described.push(Described {
                name: name.to_owned(),
                storage: storage.key.to_owned(),
                dtype: storage.dtype,
                offset: tensor.offset,
                shape: tensor.shape.clone(),
                strides: tensor.strides.clone(),
                negated: tensor.negated,
            });
        }
        Ok(Read { value: described, end: self.at })
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], PickleError> {
        let end = self.at.checked_add(count).ok_or(PickleError::Truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or(PickleError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    /// An unsigned number of so many bytes, 4 at most.
    fn number(&mut self, bytes: usize) -> Result<u32, PickleError> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    fn integer(&mut self, bytes: usize) -> Result<(), PickleError> {
        let number = self.number(bytes)?;
        self.stack.push(Value::Integer(number.into()));
        Ok(())
    }

    /// A signed number of up to 8 bytes, its length before it.
    fn long(&mut self) -> Result<(), PickleError> {
        let length = self.take(1)?[0];
        let bytes = self.take(length.into())?;
        if bytes.len() > 8 {
            return Err(self.senseless("a number has more than 64 bits"));
        }
        let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut whole = if negative { [0xff; 8] } else { [0; 8] };
        whole[..bytes.len()].copy_from_slice(bytes);
        self.stack.push(Value::Integer(i64::from_le_bytes(whole)));
        Ok(())
    }

    fn pop(&mut self) -> Result<Value<'a>, PickleError> {
        self.stack.pop().ok_or_else(|| self.senseless("there is nothing to take"))
    }

    fn since_mark(&mut self) -> Result<Vec<Value<'a>>, PickleError> {
        let mark = self.stack.iter().rposition(|value| matches!(value, Value::Mark));
        let mark = mark.ok_or_else(|| self.senseless("there is no mark"))?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn tuple(&mut self, parts: Vec<Value<'a>>) {
        self.stack.push(Value::Tuple(self.tuples.len()));
        self.tuples.push(parts);
    }

    fn dictionary(&mut self, entries: Vec<(Value<'a>, Value<'a>)>) {
        self.stack.push(Value::Dictionary(self.dictionaries.len()));
        self.dictionaries.push(entries);
    }

    fn top_dictionary(&self) -> Result<usize, PickleError> {
        match self.stack.last() {
            Some(Value::Dictionary(dictionary)) => Ok(*dictionary),
            _ => Err(self.senseless("there is no dictionary")),
        }
    }

    fn top_list(&self) -> Result<usize, PickleError> {
        match self.stack.last() {
            Some(Value::List(list)) => Ok(*list),
            _ => Err(self.senseless("there is no list")),
        }
    }

    fn remember(&mut self, bytes: usize) -> Result<(), PickleError> {
        let slot = self.number(bytes)?;
        let value = *self.stack.last().ok_or_else(|| self.senseless("there is nothing to remember"))?;
        self.memory.insert(slot, value);
        Ok(())
    }

    fn recall(&mut self, bytes: usize) -> Result<(), PickleError> {
        let slot = self.number(bytes)?;
        let value = *self.memory.get(&slot).ok_or_else(|| self.senseless("what it recalls was never there"))?;
        self.stack.push(value);
        Ok(())
    }

    /// Module and name, each on a line.
    fn name(&mut self) -> Result<(), PickleError> {
        let (module, name) = (self.line()?, self.line()?);
        let known = Name::of(module, name).ok_or_else(|| PickleError::Name { name: format!("{module}.{name}") })?;
        self.stack.push(Value::Name(known));
        Ok(())
    }

    fn line(&mut self) -> Result<&'a str, PickleError> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or(PickleError::Truncated)?;
        let line = std::str::from_utf8(self.take(length)?).map_err(|_| self.senseless("a name is not UTF-8"))?;
        self.take(1)?;
        Ok(line)
    }

    /// ("storage", class, key, device, count) to a storage. Before torch 1.6, a sixth part told of which other storage it
    /// is a part, if of any.
    fn storage(&mut self) -> Result<(), PickleError> {
        let Value::Tuple(tuple) = self.pop()? else { return Err(self.senseless("a storage is not described")) };
        let [
            Value::Text("storage"),
            Value::Name(Name::Storage(dtype)),
            Value::Text(key),
            Value::Text(_),
            Value::Integer(_),
            ref rest @ ..,
        ] = self.tuples[tuple][..]
        else {
            return Err(self.senseless("a storage is described in another way than torch does"));
        };
        if !matches!(rest, [] | [Value::Other]) {
            return Err(self.senseless("a storage is a part of another"));
        }
        // Keys are numbers in the order of writing.
        if key.len() > 32 {
            return Err(self.senseless("the key of a storage is no number"));
        }
        self.stack.push(Value::Storage(self.storages.len()));
        self.storages.push(Storage { key, dtype });
        Ok(())
    }

    fn call(&mut self) -> Result<(), PickleError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (Value::Tuple(arguments), Value::Name(function)) = (arguments, function) else {
            return Err(self.senseless("what it calls is no function"));
        };
        match (function, &self.tuples[arguments][..]) {
            (Name::OrderedDictionary, []) => self.dictionary(Vec::new()),
            (
                Name::RebuildTensor,
                &[
                    Value::Storage(storage),
                    Value::Integer(offset),
                    Value::Tuple(shape),
                    Value::Tuple(strides),
                    ref rest @ ..,
                ],
            ) => {
                // Whether it is trained, what is called while it is, and what its numbers are besides.
                let negated = match *rest {
                    [] | [_] | [_, _] => false,
                    [_, _, Value::Dictionary(properties)] => self.negated(properties)?,
                    _ => return Err(self.senseless("a tensor is described in another way than torch does")),
                };
                let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
                let offset = u64::try_from(offset).map_err(|_| self.senseless("a tensor begins before its storage"))?;
                self.stack.push(Value::Tensor(self.tensors.len()));
                self.tensors.push(Tensor { storage, offset, shape, strides, negated });
            }
            (Name::RebuildParameter, &[tensor @ Value::Tensor(_), ..]) => self.stack.push(tensor),
            _ => return Err(self.senseless("a function is called in another way than torch does")),
        }
        Ok(())
    }

    /// Whether the numbers of a tensor have the other sign, of all properties the only one that is known.
    fn negated(&self, properties: usize) -> Result<bool, PickleError> {
        let mut negated = false;
        for property in &self.dictionaries[properties] {
            match *property {
                (Value::Text("neg"), Value::Truth(value)) => negated = value,
                (Value::Text(_), Value::Truth(false)) => {}
                _ => return Err(self.senseless("a tensor has a property that is not known")),
            }
        }
        Ok(negated)
    }

    fn sizes(&self, tuple: usize) -> Result<Vec<u64>, PickleError> {
        let size = |value: &Value<'_>| match value {
            Value::Integer(size) => u64::try_from(*size).ok(),
            _ => None,
        };
        // More axes than any tensor has would let a small file ask for much memory, by recalling one tuple many times.
        let sizes = &self.tuples[tuple];
        if sizes.len() > 8 {
            return Err(self.senseless("a tensor has more than 8 axes"));
        }
        sizes.iter().map(size).collect::<Option<_>>().ok_or_else(|| self.senseless("a tensor's size is no number"))
    }

    fn senseless(&self, what: &'static str) -> PickleError {
        PickleError::Senseless { what, at: self.at }
    }
}
