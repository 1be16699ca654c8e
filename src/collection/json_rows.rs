//! Rows of a record batch as JSON Lines.
//!
//! Nulls are written, so that a null text is told from a missing column. Integers keep all their digits, floats have
//! the shortest ones that mean the same, and NaN and infinities are null; times are ISO 8601, binary values hexadecimal.

use std::fmt::{Debug, Display};
use std::io::Write as _;

use arrow_array::cast::AsArray;
use arrow_array::timezone::Tz;
#[allow(clippy::wildcard_imports, reason = "one type for each kind of number and time")]
use arrow_array::types::*;
use arrow_array::{Array, ArrayAccessor, ArrayRef, ListLikeArray, PrimitiveArray, RecordBatch, downcast_integer};
use arrow_buffer::{ArrowNativeType, NullBuffer};
use arrow_schema::{ArrowError, DataType, Fields, IntervalUnit, TimeUnit};

/// Writes the value at a row where there is one. What is written to a `Vec` cannot fail.
type Write<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + 'a>;

struct Column<'a> {
    nulls: Option<NullBuffer>,
    write: Write<'a>,
}

/// One line for each row.
pub(super) fn json_lines(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut lines = Vec::new();
    if batch.num_rows() > 0 {
        let write = object(batch.schema_ref().fields(), batch.columns())?;
        for row in 0..batch.num_rows() {
            write(row, &mut lines);
            lines.push(b'\n');
        }
    }
    Ok(lines)
}

impl<'a> Column<'a> {
    fn new(array: &'a dyn Array) -> Result<Self, ArrowError> {
        Ok(Self { nulls: array.logical_nulls(), write: writer(array)? })
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            out.extend_from_slice(b"null");
        } else {
            (self.write)(row, out);
        }
    }
}

fn writer(array: &dyn Array) -> Result<Write<'_>, ArrowError> {
    macro_rules! integer {
        ($t:ty) => {
            shown::<$t, _>(array, PrimitiveArray::value)
        };
    }
    Ok(downcast_integer! {
        array.data_type() => (integer),
        DataType::Null => Box::new(|_, out| out.extend_from_slice(b"null")),
        DataType::Boolean => {
            let array = array.as_boolean();
            Box::new(move |row, out| drop(write!(out, "{}", array.value(row))))
        }
        DataType::Float16 => float::<Float16Type, _>(array, half::f16::to_f32),
        DataType::Float32 => float::<Float32Type, _>(array, |value| value),
        DataType::Float64 => float::<Float64Type, _>(array, |value| value),
        DataType::Decimal32(..) => shown(array, PrimitiveArray::<Decimal32Type>::value_as_string),
        DataType::Decimal64(..) => shown(array, PrimitiveArray::<Decimal64Type>::value_as_string),
        DataType::Decimal128(..) => shown(array, PrimitiveArray::<Decimal128Type>::value_as_string),
        DataType::Decimal256(..) => shown(array, PrimitiveArray::<Decimal256Type>::value_as_string),
        DataType::Utf8 => string(array.as_string::<i32>()),
        DataType::LargeUtf8 => string(array.as_string::<i64>()),
        DataType::Utf8View => string(array.as_string_view()),
        DataType::Binary => binary(array.as_binary::<i32>()),
        DataType::LargeBinary => binary(array.as_binary::<i64>()),
        DataType::BinaryView => binary(array.as_binary_view()),
        DataType::FixedSizeBinary(_) => binary(array.as_fixed_size_binary()),
        DataType::Date32 => time::<Date32Type>(array, "temporal", |array, row| iso(array.value_as_date(row))),
        DataType::Date64 => time::<Date64Type>(array, "temporal", |array, row| iso(array.value_as_datetime(row))),
        DataType::Time32(TimeUnit::Second) => time_of_day::<Time32SecondType>(array),
        DataType::Time32(_) => time_of_day::<Time32MillisecondType>(array),
        DataType::Time64(TimeUnit::Microsecond) => time_of_day::<Time64MicrosecondType>(array),
        DataType::Time64(_) => time_of_day::<Time64NanosecondType>(array),
        DataType::Timestamp(unit, zone) => {
            let zone = zone.as_deref().map(str::parse).transpose()?;
            match unit {
                TimeUnit::Second => timestamp::<TimestampSecondType>(array, zone),
                TimeUnit::Millisecond => timestamp::<TimestampMillisecondType>(array, zone),
                TimeUnit::Microsecond => timestamp::<TimestampMicrosecondType>(array, zone),
                TimeUnit::Nanosecond => timestamp::<TimestampNanosecondType>(array, zone),
            }
        }
        DataType::Duration(TimeUnit::Second) => duration::<DurationSecondType>(array),
        DataType::Duration(TimeUnit::Millisecond) => duration::<DurationMillisecondType>(array),
        DataType::Duration(TimeUnit::Microsecond) => duration::<DurationMicrosecondType>(array),
        DataType::Duration(TimeUnit::Nanosecond) => duration::<DurationNanosecondType>(array),
        DataType::Interval(IntervalUnit::YearMonth) => quoted::<IntervalYearMonthType, _>(array, |array, row| {
            let months = array.value(row);
            format!("{} years {} mons", months.div_euclid(12), months.rem_euclid(12))
        }),
        DataType::Interval(IntervalUnit::DayTime) => quoted::<IntervalDayTimeType, _>(array, |array, row| {
            let value = array.value(row);
            interval(0, value.days, value.milliseconds.into(), 3)
        }),
        DataType::Interval(IntervalUnit::MonthDayNano) => quoted::<IntervalMonthDayNanoType, _>(array, |array, row| {
            let value = array.value(row);
            interval(value.months, value.days, value.nanoseconds, 9)
        }),
        DataType::Dictionary(..) => {
            let array = array.as_any_dictionary();
            let values = Column::new(array.values())?;
            let keys = if array.values().is_empty() { Vec::new() } else { array.normalized_keys() };
            Box::new(move |row, out| values.write(keys[row], out))
        }
        DataType::List(_) => list(array.as_list::<i32>())?,
        DataType::LargeList(_) => list(array.as_list::<i64>())?,
        DataType::ListView(_) => list(array.as_list_view::<i32>())?,
        DataType::LargeListView(_) => list(array.as_list_view::<i64>())?,
        DataType::FixedSizeList(..) => list(array.as_fixed_size_list())?,
        DataType::Struct(fields) => object(fields, array.as_struct().columns())?,
        DataType::Map(..) => map(array)?,
        other => return Err(ArrowError::JsonError(format!("Unsupported data type for JSON encoding: {other:?}"))),
    })
}

fn shown<'a, T: ArrowPrimitiveType, D: Display>(
    array: &'a dyn Array,
    value: impl Fn(&PrimitiveArray<T>, usize) -> D + 'a,
) -> Write<'a> {
    let array = array.as_primitive::<T>();
    Box::new(move |row, out| drop(write!(out, "{}", value(array, row))))
}

fn quoted<'a, T: ArrowPrimitiveType, D: Display>(
    array: &'a dyn Array,
    value: impl Fn(&PrimitiveArray<T>, usize) -> D + 'a,
) -> Write<'a> {
    shown::<T, _>(array, move |array, row| format!("\"{}\"", value(array, row)))
}

/// The shortest digits that mean the same; with an exponent below 1e-5 and from 1e10 on.
fn float<'a, T: ArrowPrimitiveType, F: lexical_core::ToLexical + Into<f64> + Copy>(
    array: &'a dyn Array,
    value: impl Fn(T::Native) -> F + 'a,
) -> Write<'a> {
    let array = array.as_primitive::<T>();
    Box::new(move |row, out| {
        let value = value(array.value(row));
        let mut buffer = [0; lexical_core::BUFFER_SIZE];
        let finite = value.into().is_finite();
        out.extend_from_slice(if finite { lexical_core::write(value, &mut buffer) } else { b"null" });
    })
}

fn string<'a>(array: impl ArrayAccessor<Item = &'a str> + 'a) -> Write<'a> {
    Box::new(move |row, out| drop(serde_json::to_writer(out, array.value(row))))
}

fn binary<'a>(array: impl ArrayAccessor<Item = &'a [u8]> + 'a) -> Write<'a> {
    Box::new(move |row, out| {
        out.push(b'"');
        array.value(row).iter().for_each(|byte| drop(write!(out, "{byte:02x}")));
        out.push(b'"');
    })
}

/// A time that cannot be converted becomes a message in its place.
fn time<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    kind: &'static str,
    value: impl Fn(&PrimitiveArray<T>, usize) -> Option<String> + 'a,
) -> Write<'a> {
    quoted::<T, _>(array, move |array, row| {
        value(array, row).unwrap_or_else(|| {
            let (value, found) = (array.value(row), array.data_type());
            format!("ERROR: Cast error: Failed to convert {value:?} to {kind} for {found}")
        })
    })
}

/// The debugging form of dates and times is ISO 8601.
fn iso(time: Option<impl Debug>) -> Option<String> {
    time.map(|time| format!("{time:?}"))
}

fn time_of_day<T: ArrowTemporalType>(array: &dyn Array) -> Write<'_>
where
    i64: From<T::Native>,
{
    time::<T>(array, "temporal", |array, row| iso(array.value_as_time(row)))
}

fn timestamp<T: ArrowTimestampType>(array: &dyn Array, zone: Option<Tz>) -> Write<'_> {
    match zone {
        None => time::<T>(array, "datetime", |array, row| iso(array.value_as_datetime(row))),
        Some(zone) => time::<T>(array, "datetime", move |array, row| {
            let time = array.value_as_datetime_with_tz(row, zone)?.to_rfc3339();
            Some(time.strip_suffix("+00:00").map(|utc| format!("{utc}Z")).unwrap_or(time))
        }),
    }
}

fn duration<T: ArrowTemporalType>(array: &dyn Array) -> Write<'_>
where
    i64: From<T::Native>,
{
    quoted::<T, _>(array, |array, row| {
        array.value_as_duration(row).map_or_else(|| "<invalid>".to_owned(), |duration| duration.to_string())
    })
}

/// `fraction` counts parts of a second, of which there are `10^digits`.
fn interval(months: i32, days: i32, fraction: i64, digits: usize) -> String {
    let per_second = if digits == 3 { 1_000 } else { 1_000_000_000 };
    let (seconds, rest) = (fraction / per_second, fraction % per_second);
    let mut parts = Vec::new();
    let wholes = [
        (i64::from(months), "mons"),
        (i64::from(days), "days"),
        (seconds / 3600, "hours"),
        (seconds / 60 % 60, "mins"),
    ];
    parts.extend(wholes.iter().filter(|(count, _)| *count != 0).map(|(count, unit)| format!("{count} {unit}")));
    let seconds = seconds % 60;
    if seconds != 0 || rest != 0 {
        let sign = if seconds < 0 || rest < 0 { "-" } else { "" };
        parts.push(format!("{sign}{}.{:0digits$} secs", seconds.abs(), rest.abs()));
    }
    if parts.is_empty() { "0 secs".to_owned() } else { parts.join(" ") }
}

fn list(array: &impl ListLikeArray) -> Result<Write<'_>, ArrowError> {
    let values = Column::new(array.values())?;
    Ok(Box::new(move |row, out| {
        enclosed(*b"[]", array.element_range(row), out, |at, out| values.write(at, out));
    }))
}

fn object<'a>(fields: &Fields, columns: &'a [ArrayRef]) -> Result<Write<'a>, ArrowError> {
    let columns = fields
        .iter()
        .zip(columns)
        .map(|(field, column)| Ok((serde_json::Value::from(field.name().as_str()).to_string(), Column::new(column)?)))
        .collect::<Result<Vec<_>, ArrowError>>()?;
    Ok(Box::new(move |row, out| {
        enclosed(*b"{}", &columns, out, |(name, column), out| {
            out.extend_from_slice(name.as_bytes());
            out.push(b':');
            column.write(row, out);
        });
    }))
}

fn map(array: &dyn Array) -> Result<Write<'_>, ArrowError> {
    let array = array.as_map();
    let found = array.keys().data_type();
    if !matches!(found, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        return Err(ArrowError::JsonError(format!("Only UTF8 keys supported by JSON MapArray Writer: got {found:?}")));
    }
    let (keys, values) = (Column::new(array.keys())?, Column::new(array.values())?);
    Ok(Box::new(move |row, out| {
        let entries = array.value_offsets()[row].as_usize()..array.value_offsets()[row + 1].as_usize();
        enclosed(*b"{}", entries, out, |at, out| {
            keys.write(at, out);
            out.push(b':');
            values.write(at, out);
        });
    }))
}

fn enclosed<T>(
    brackets: [u8; 2],
    items: impl IntoIterator<Item = T>,
    out: &mut Vec<u8>,
    write: impl Fn(T, &mut Vec<u8>),
) {
    out.push(brackets[0]);
    for (place, item) in items.into_iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(brackets[1]);
}

#[cfg(test)]
mod tests;
