//! Parquet: columns become what keys would be.

use std::sync::Arc;

use arrow_array::builder::{Int64Builder, ListBuilder};
use arrow_array::{
    ArrayRef, BinaryArray, Float64Array, Int64Array, RecordBatch, StringArray, StructArray, TimestampMillisecondArray,
};
use arrow_schema::{DataType, Field, Fields};
use parquet::arrow::ArrowWriter;

use super::*;

fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn texts(texts: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(texts.to_vec()))
}

fn read(columns: Vec<(&str, ArrayRef)>) -> Vec<Chunk> {
    let root = Root::new();
    let path = root.write("t.parquet", &parquet(columns));
    chunks(discover(&Request { root: &path, only: &[] }).unwrap().collections[0].read())
}

#[test]
fn other_columns_become_metadata_with_all_their_digits() {
    let mut list = ListBuilder::new(Int64Builder::new());
    list.append_value([Some(1), None]);
    list.append_null();
    let pages = Fields::from(vec![Field::new("page", DataType::Int64, true)]);
    let pages = StructArray::new(pages, vec![Arc::new(Int64Array::from(vec![Some(3), None]))], None);
    let read = read(vec![
        ("n", Arc::new(Int64Array::from(vec![9_007_199_254_740_993, -1]))),
        ("text", texts(&[Some("a\n\"b\""), Some("")])),
        ("score", Arc::new(Float64Array::from(vec![0.899_999_999_999_999_9, f64::NAN]))),
        ("list", Arc::new(list.finish())),
        ("place", Arc::new(pages)),
        ("time", Arc::new(TimestampMillisecondArray::from(vec![Some(0), None]))),
        ("blob", Arc::new(BinaryArray::from(vec![&b"\x01\xff"[..], b""]))),
        ("id", texts(&[Some("x"), None])),
    ]);
    assert_eq!(read[0].text, ChunkText::Present("a\n\"b\"".to_owned()));
    assert_eq!((read[0].id.as_str(), read[1].id.as_str()), ("x", "t.parquet#1"));
    assert_eq!(
        raw(read[0].metadata.as_ref()),
        Some(concat!(
            r#"{"n":9007199254740993,"score":0.8999999999999999,"list":[1,null],"place":{"page":3},"#,
            r#""time":"1970-01-01T00:00:00","blob":"01ff","id":"x"}"#
        ))
    );
    assert_eq!(
        raw(read[1].metadata.as_ref()),
        Some(r#"{"n":-1,"score":null,"list":null,"place":{"page":null},"time":null,"blob":"","id":null}"#)
    );
}

#[test]
fn a_metadata_column_is_the_metadata() {
    let string = texts(&[Some(r#"{"chunk_id": "m", "s": 1.10}"#), Some("not json")]);
    let read =
        read(vec![("text", texts(&[Some("a"), Some("b")])), ("metadata", string), ("k", texts(&[Some("v"), None]))]);
    assert_eq!((read[0].id.as_str(), raw(read[0].metadata.as_ref())), ("m", Some(r#"{"chunk_id":"m","s":1.10}"#)));
    assert_eq!(
        (raw(read[0].extra.as_ref()), raw(read[1].metadata.as_ref())),
        (Some(r#"{"k":"v"}"#), Some(r#""not json""#))
    );
    let fields = Fields::from(vec![Field::new("chunk_id", DataType::Utf8, true)]);
    let nested = StructArray::new(fields, vec![texts(&[Some("inner")])], None);
    let read = self::read(vec![("metadata", Arc::new(nested)), ("text", texts(&[Some("a")]))]);
    assert_eq!((read[0].id.as_str(), raw(read[0].metadata.as_ref())), ("inner", Some(r#"{"chunk_id":"inner"}"#)));
}

#[test]
fn rows_keep_their_number_over_many_batches() {
    let strings: Vec<_> = (0..1000).map(|row| row.to_string()).collect();
    let column: Vec<_> = strings.iter().map(|text| (text != "500").then_some(text.as_str())).collect();
    let told = told_of_file("t.parquet", &parquet(vec![("text", texts(&column))]));
    assert_eq!(told.len(), 1001);
    assert_eq!(told[500..502], ["! t.parquet (entry 500): text is null, not a string", "500 t.parquet#500 -"]);
    assert_eq!(told[1000], "999 t.parquet#999 999");
}

#[test]
fn a_table_without_usable_texts_names_what_it_has() {
    let table = parquet(vec![("content", texts(&[Some("a")])), ("n", texts(&[None]))]);
    check_file("t.parquet", table, &["! t.parquet: there is no column text; the columns are content, n"]);
    let table = parquet(vec![("text", Arc::new(BinaryArray::from(vec![&b"a"[..]])))]);
    check_file("t.parquet", table, &["! t.parquet: the column text is Binary, not strings"]);
    check_file("t.parquet", parquet(vec![("text", texts(&[]))]), &[]);
}

#[test]
fn a_damaged_table_is_a_fault_and_no_panic() {
    let strings: Vec<_> = (0..300_u64).map(|row| row.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_string()).collect();
    let whole = parquet(vec![("text", texts(&strings.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>()))]);
    let told = told_of_file("t.parquet", b"PAR1 but nothing more");
    assert!(told.len() == 1 && told[0].starts_with("! t.parquet: cannot be read as parquet"), "{told:?}");
    let told = told_of_file("t.parquet", &whole[..whole.len() / 2]);
    assert!(told.len() == 1 && told[0].starts_with("! t.parquet: cannot be read as parquet"), "{told:?}");
    for at in (0..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        told_of_file("t.parquet", &damaged);
    }
}

#[test]
fn progress_of_a_table_ends_at_its_size() {
    let root = Root::new();
    root.write("A/t.parquet", &parquet(vec![("text", texts(&[Some("a"); 200]))]));
    let collection = &root.discover().collections[0];
    let mut reader = collection.read();
    reader.by_ref().take(100).for_each(drop);
    assert!((1..collection.bytes()).contains(&reader.bytes_read()), "{}", reader.bytes_read());
    reader.by_ref().for_each(drop);
    assert_eq!(reader.bytes_read(), collection.bytes());
}
