//! One column of each type against the text that metadata has held for it since tables are read.

use std::sync::Arc;

use arrow_array::builder::{Int32Builder, ListBuilder, MapBuilder, StringBuilder};
#[allow(clippy::wildcard_imports, reason = "one array for each type")]
use arrow_array::*;
use arrow_buffer::{NullBuffer, i256};
use arrow_schema::Field;
use half::f16;

use super::*;

fn try_rows(column: ArrayRef) -> Result<Vec<String>, ArrowError> {
    let lines = json_lines(&RecordBatch::try_from_iter_with_nullable([("c", column, true)]).unwrap())?;
    let lines = String::from_utf8(lines).unwrap();
    let value = |line: &str| line.strip_prefix("{\"c\":").unwrap().strip_suffix('}').unwrap().to_owned();
    Ok(lines.lines().map(value).collect())
}

#[track_caller]
fn check(column: impl Array + 'static, expected: &[&str]) {
    let kind = column.data_type().clone();
    assert_eq!(try_rows(Arc::new(column)).unwrap(), expected, "{kind}");
}

#[test]
fn numbers_keep_their_digits() {
    check(NullArray::new(2), &["null", "null"]);
    check(BooleanArray::from(vec![Some(true), None, Some(false)]), &["true", "null", "false"]);
    check(Int8Array::from(vec![-128]), &["-128"]);
    check(Int64Array::from(vec![Some(i64::MIN), None]), &["-9223372036854775808", "null"]);
    check(UInt64Array::from(vec![u64::MAX]), &["18446744073709551615"]);
    let doubles = [0.1, 1.0, -0.0, 1e10, 9_999_999_999.5, 1e-5, -9.99e-6, 1.5e300, 5e-324, f64::NAN, f64::INFINITY];
    check(
        Float64Array::from(doubles.to_vec()),
        &["0.1", "1.0", "-0.0", "1.0e10", "9999999999.5", "0.00001", "-9.99e-6", "1.5e300", "5.0e-324", "null", "null"],
    );
    check(Float32Array::from(vec![0.1, f32::MAX, 1.0 / 4096.0]), &["0.1", "3.4028235e38", "0.00024414062"]);
    check(Float16Array::from(vec![f16::from_f32(1.300_781_3), f16::NAN]), &["1.3007813", "null"]);
}

#[test]
fn decimals_are_numbers() {
    let scaled = |array: Decimal128Array, scale| array.with_precision_and_scale(38, scale).unwrap();
    check(scaled(vec![12345, -5, 0].into(), 3), &["12.345", "-0.005", "0.000"]);
    check(scaled(vec![12, 0].into(), -2), &["1200", "0"]);
    check(Decimal32Array::from(vec![7]).with_precision_and_scale(9, 0).unwrap(), &["7"]);
    check(Decimal64Array::from(vec![-75]).with_precision_and_scale(18, 1).unwrap(), &["-7.5"]);
    let wide = Decimal256Array::from(vec![i256::MAX]).with_precision_and_scale(76, 76).unwrap();
    check(wide, &["5.7896044618658097711785492504343953926634992332820282019728792003956564819967"]);
}

#[test]
fn strings_are_escaped_and_bytes_hexadecimal() {
    let text = "\"\\/\n\t\0\u{1f}\u{7f}é漢\u{2028}";
    let expected = ["\"\\\"\\\\/\\n\\t\\u0000\\u001f\u{7f}é漢\u{2028}\"", "null", "\"\""];
    check(StringArray::from(vec![Some(text), None, Some("")]), &expected);
    check(LargeStringArray::from(vec![Some(text), None, Some("")]), &expected);
    check(StringViewArray::from(vec![Some(text), None, Some("")]), &expected);
    check(BinaryArray::from(vec![&b"\x01\xff"[..], b""]), &["\"01ff\"", "\"\""]);
    check(LargeBinaryArray::from(vec![&b"\x01\xff"[..]]), &["\"01ff\""]);
    check(BinaryViewArray::from(vec![&b"\x01\xff"[..]]), &["\"01ff\""]);
    check(FixedSizeBinaryArray::try_from_iter([[1_u8, 255]].iter()).unwrap(), &["\"01ff\""]);
    check(
        [Some("b"), None, Some("b")].into_iter().collect::<DictionaryArray<Int32Type>>(),
        &["\"b\"", "null", "\"b\""],
    );
    check([None::<&str>, None].into_iter().collect::<DictionaryArray<Int32Type>>(), &["null", "null"]);
}

#[test]
fn nested_columns_are_nested_json() {
    let mut lists = ListBuilder::new(Int32Builder::new());
    lists.append_value([Some(1), None]);
    lists.append_null();
    lists.append_value([]);
    let lists = lists.finish();
    check(lists.clone(), &["[1,null]", "null", "[]"]);
    check(lists.slice(1, 2), &["null", "[]"]);
    check(ListViewArray::from(lists), &["[1,null]", "null", "[]"]);
    let item = Arc::new(Field::new("item", DataType::Int32, true));
    let pairs = FixedSizeListArray::new(item, 2, Arc::new(Int32Array::from(vec![1, 2, 3, 4])), None);
    check(pairs, &["[1,2]", "[3,4]"]);

    let inner = Fields::from(vec![Field::new("k\"", DataType::Int32, true)]);
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(3)]));
    let inner_array = StructArray::new(inner, vec![numbers], Some(NullBuffer::from(vec![true, true, false])));
    let outer = Fields::from(vec![Field::new("in", inner_array.data_type().clone(), true)]);
    let outer = StructArray::new(outer, vec![Arc::new(inner_array)], Some(NullBuffer::from(vec![true, true, true])));
    check(outer, &[r#"{"in":{"k\"":1}}"#, r#"{"in":{"k\"":null}}"#, r#"{"in":null}"#]);
    check(StructArray::new_empty_fields(2, None), &["{}", "{}"]);

    let mut maps = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    maps.keys().append_value("a\n");
    maps.values().append_value(1);
    maps.keys().append_value("b");
    maps.values().append_null();
    maps.append(true).unwrap();
    maps.append(false).unwrap();
    check(maps.finish(), &[r#"{"a\n":1,"b":null}"#, "null"]);
    let mut maps = MapBuilder::new(None, Int32Builder::new(), Int32Builder::new());
    maps.append(true).unwrap();
    let error = try_rows(Arc::new(maps.finish())).unwrap_err().to_string();
    assert_eq!(error, "Json error: Only UTF8 keys supported by JSON MapArray Writer: got Int32");
}

#[test]
fn times_are_iso_8601() {
    check(Date32Array::from(vec![0, -1, 2_932_897]), &["\"1970-01-01\"", "\"1969-12-31\"", "\"+10000-01-01\""]);
    check(Date64Array::from(vec![86_399_999]), &["\"1970-01-01T23:59:59.999\""]);
    check(
        Time32SecondArray::from(vec![86_399, 86_400]),
        &["\"23:59:59\"", "\"ERROR: Cast error: Failed to convert 86400 to temporal for Time32(s)\""],
    );
    check(Time32MillisecondArray::from(vec![1]), &["\"00:00:00.001\""]);
    check(Time64MicrosecondArray::from(vec![1]), &["\"00:00:00.000001\""]);
    check(Time64NanosecondArray::from(vec![1]), &["\"00:00:00.000000001\""]);
    check(TimestampSecondArray::from(vec![Some(1_700_000_000), None]), &["\"2023-11-14T22:13:20\"", "null"]);
    check(TimestampMillisecondArray::from(vec![-1]), &["\"1969-12-31T23:59:59.999\""]);
    check(TimestampMicrosecondArray::from(vec![-1]), &["\"1969-12-31T23:59:59.999999\""]);
    check(TimestampNanosecondArray::from(vec![-1]), &["\"1969-12-31T23:59:59.999999999\""]);
    check(
        TimestampSecondArray::from(vec![i64::MAX]),
        &["\"ERROR: Cast error: Failed to convert 9223372036854775807 to datetime for Timestamp(s)\""],
    );
    let zoned = |zone: &str| TimestampMillisecondArray::from(vec![1_700_000_000_500]).with_timezone(zone);
    check(zoned("+02:00"), &["\"2023-11-15T00:13:20.500+02:00\""]);
    check(zoned("-0930"), &["\"2023-11-14T12:43:20.500-09:30\""]);
    check(zoned("+00:00"), &["\"2023-11-14T22:13:20.500Z\""]);
    assert_eq!(
        try_rows(Arc::new(zoned("Europe/Berlin"))).unwrap_err().to_string(),
        "Parser error: Invalid timezone \"Europe/Berlin\": only offset based timezones supported without chrono-tz \
         feature"
    );
}

#[test]
fn durations_are_iso_8601_and_intervals_words() {
    check(DurationSecondArray::from(vec![90, i64::MAX]), &["\"PT90S\"", "\"<invalid>\""]);
    check(DurationMillisecondArray::from(vec![1500]), &["\"PT1.5S\""]);
    check(DurationMicrosecondArray::from(vec![-1]), &["\"-PT0.000001S\""]);
    check(DurationNanosecondArray::from(vec![0]), &["\"P0D\""]);
    check(IntervalYearMonthArray::from(vec![-1, 25]), &["\"-1 years 11 mons\"", "\"2 years 1 mons\""]);
    let day_time = |days, milliseconds| IntervalDayTime { days, milliseconds };
    check(
        IntervalDayTimeArray::from(vec![day_time(0, 0), day_time(1, -1500)]),
        &["\"0 secs\"", "\"1 days -1.500 secs\""],
    );
    let interval = IntervalMonthDayNano { months: 1, days: 2, nanoseconds: 3_661_000_000_001 };
    check(IntervalMonthDayNanoArray::from(vec![interval]), &["\"1 mons 2 days 1 hours 1 mins 1.000000001 secs\""]);
}
