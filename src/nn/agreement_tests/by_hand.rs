//! Each operation against sums by hand.

use super::*;

/// Each row is what a token has for q, then k, then v.
#[track_caller]
fn check(attention: &Attention, rows: &[&[f32]], expected: &[f32]) {
    let width = attention.input_width();
    let qkv = Matrix { rows: rows.len(), columns: width, values: rows.concat() };
    for backend in cpus().chain([candle(), padded()]) {
        let found = backend.attend(attention, &qkv, &batch_of(&[rows.len()]));
        assert_close(&backend.name(), &found, expected, 2e-6);
    }
}

const LN_3: f32 = 1.098_612_3;

/// One head of one number, whose scores are q · k.
fn simple() -> Attention {
    Attention { scale: 1.0, ..Attention::new(1, 1) }
}

#[test]
fn values_are_weighted_by_the_exponentials_of_their_scores() {
    // Scores of the first query are 0 and 0, of the second 0 and ln 3.
    check(&simple(), &[&[0.0, 0.0, 4.0], &[1.0, LN_3, 8.0]], &[6.0, 7.0]);
    // Scores of 2 and 2 numbers are divided by √4.
    let wide = Attention::new(1, 4);
    let (zero, one) = ([0.0; 4], [1.0, 1.0, LN_3, LN_3]);
    let rows = [[zero, zero, [4.0; 4]].concat(), [one, [0.0, 0.0, 1.0, 1.0], [8.0; 4]].concat()];
    check(&wide, &[&rows[0], &rows[1]], &[6.0, 6.0, 6.0, 6.0, 7.0, 7.0, 7.0, 7.0]);
}

#[test]
fn the_scale_is_the_one_given() {
    let attention = Attention { scale: 0.5, ..simple() };
    check(&attention, &[&[0.0, 0.0, 4.0], &[2.0, LN_3, 8.0]], &[6.0, 7.0]);
}

#[test]
fn masked_keys_do_not_count() {
    let rows: [&[f32]; 4] = [&[0.0, 9.0, 1.0], &[0.0, -9.0, 2.0], &[0.0, 5.0, 6.0], &[0.0, 1.0, 7.0]];
    check(&Attention { mask: Mask::CAUSAL, ..simple() }, &rows, &[1.0, 1.5, 3.0, 4.0]);
    check(&Attention { mask: Mask::window(0), ..simple() }, &rows, &[1.0, 2.0, 6.0, 7.0]);
    check(&Attention { mask: Mask::window(1), ..simple() }, &rows, &[1.5, 3.0, 5.0, 6.5]);
    check(&Attention { mask: Mask::causal_window(2), ..simple() }, &rows, &[1.0, 1.5, 4.0, 6.5]);
}

#[test]
fn tokens_that_are_not_seen_see_the_others() {
    let rows: [&[f32]; 3] = [&[0.0, 0.0, 4.0], &[0.0, 0.0, 8.0], &[1.0, LN_3, 80.0]];
    let qkv = Matrix { rows: 6, columns: 3, values: [rows.concat(), rows.concat()].concat() };
    let sequence = |unseen| TokenSeq { ids: vec![0; 3], truncated: 0, unseen };
    // The third token's own value counts where it is seen, three times as much for itself.
    let batch = PackedBatch::of(&[sequence(1), sequence(0)]);
    let all_seen = 92.0 / 3.0;
    let third = (4.0 + 8.0 + 3.0 * 80.0) / 5.0;
    for backend in cpus().chain([candle(), padded()]) {
        let found = backend.attend(&simple(), &qkv, &batch);
        assert_close(&backend.name(), &found, &[6.0, 6.0, 6.0, all_seen, all_seen, third], 2e-6);
    }
}

#[test]
fn heads_of_a_group_share_keys_and_values() {
    let attention = Attention { key_value_heads: 2, scale: 1.0, ..Attention::new(4, 1) };
    // Four queries, two keys, two values: heads 0 and 1 have the first key and value.
    let rows: [&[f32]; 2] = [&[0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 4.0, 40.0], &[0.0, 1.0, 0.0, 1.0, LN_3, -LN_3, 8.0, 80.0]];
    check(&attention, &rows, &[6.0, 7.0, 60.0, 50.0, 6.0, 7.0, 60.0, 50.0]);
}

#[test]
fn slopes_make_far_keys_weigh_less() {
    let bias = PositionBias::Slopes(vec![std::f32::consts::LN_2]);
    let attention = Attention { position_bias: Some(bias), ..simple() };
    let rows: [&[f32]; 3] = [&[0.0, 0.0, 7.0], &[0.0, 0.0, 14.0], &[0.0, 0.0, 28.0]];
    // Weights 4 : 2 : 1, 1 : 2 : 1, 1 : 2 : 4.
    check(&attention, &rows, &[12.0, 15.75, 21.0]);
}

#[test]
fn buckets_tell_before_from_after() {
    let table = Matrix { rows: 4, columns: 1, values: vec![0.0, LN_3, 0.0, f32::NEG_INFINITY] };
    let bias = PositionBias::Buckets { table, max_distance: 8 };
    let attention = Attention { position_bias: Some(bias), ..simple() };
    // What comes before weighs three times as much as the query itself, what comes after nothing.
    check(&attention, &[&[0.0, 0.0, 4.0], &[0.0, 0.0, 8.0]], &[4.0, 5.0]);
}

#[test]
fn rotary_positions_turn_queries_and_keys_alike() {
    // A quarter turn a token, the same queries and keys: scores ln 3 · cos(quarters between). The numbers of a head
    // that are not turned add nothing.
    let rotary = |pairing| Rotary { inverse_frequencies: vec![std::f32::consts::FRAC_PI_2], pairing };
    for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
        let attention = Attention { scale: 1.0, rotary: Some(rotary(pairing)), ..Attention::new(1, 3) };
        let row = |value: f32| [LN_3, 0.0, 0.0, 1.0, 0.0, 0.0, value, value, 0.0];
        // Scores of the first query: ln 3, 0, -ln 3.
        let rows = [row(13.0), row(26.0), row(39.0)];
        let first = (3.0 * 13.0 + 26.0 + 39.0 / 3.0) / (3.0 + 1.0 + 1.0 / 3.0);
        let second = (13.0 + 3.0 * 26.0 + 39.0) / 5.0;
        let third = (13.0 / 3.0 + 26.0 + 3.0 * 39.0) / (3.0 + 1.0 + 1.0 / 3.0);
        let expected = [first, first, 0.0, second, second, 0.0, third, third, 0.0];
        check(&attention, &[&rows[0], &rows[1], &rows[2]], &expected);
    }
}

#[test]
fn relative_positions_meet_the_contents_of_queries_and_of_keys() {
    // One number a head; scores are q · k + q · key of the distance + k · query of the distance. Rows are for keys
    // two and more after the query, one after, itself, one and more before.
    let table = |values: [f32; 4]| Some(Matrix { rows: 4, columns: 1, values: values.to_vec() });
    let check = |keys, queries, rows: &[&[f32]], expected: &[f32]| {
        let distances = Distances { span: 2, max_distance: None };
        let attention = RelativeAttention { heads: 1, head_size: 1, scale: 0.5, keys, queries, distances };
        let qkv = Matrix { rows: rows.len(), columns: 3, values: rows.concat() };
        for backend in cpus().chain([candle(), padded()]) {
            let found = backend.attend_relatively(&attention, &qkv, &batch_of(&[rows.len()]));
            assert_close(&backend.name(), &found, expected, 2e-6);
        }
    };
    let (twice, none) = (2.0 * LN_3, 0.0);
    // The query of the first token is 1, of the second -1: each puts weights 3 : 1 or 1 : 3 on the next and itself.
    let rows: [&[f32]; 2] = [&[1.0, 0.0, 4.0], &[-1.0, 0.0, 8.0]];
    check(table([none, twice, none, none]), None, &rows, &[7.0, 6.0]);
    check(table([none, none, none, twice]), None, &rows, &[6.0, 7.0]);
    // The key of the second token is 1, that of the first 0: only the second can gain.
    let rows: [&[f32]; 2] = [&[0.0, 0.0, 4.0], &[0.0, 1.0, 8.0]];
    check(None, table([none, twice, none, none]), &rows, &[7.0, 6.0]);
    check(None, table([none, none, twice, none]), &rows, &[6.0, 7.0]);
    // Contents alone.
    check(None, None, &[&[0.0, 0.0, 4.0], &[2.0, LN_3, 8.0]], &[6.0, 7.0]);
}

#[test]
fn norms_of_heads_take_away_the_length_of_queries_and_keys() {
    let norm = HeadNorm { query: vec![1.0, 0.0], key: vec![LN_3 / 2.0, 5.0], epsilon: 0.0 };
    let attention = Attention { scale: 1.0, head_norm: Some(norm), ..Attention::new(1, 2) };
    // Normalised, queries are (√2, 0), and keys (0, √2) and (√2, 0), before weights.
    let rows: [&[f32]; 2] = [&[7.0, 0.0, 0.0, 3.0, 4.0, 4.0], &[0.1, 0.0, 90.0, 0.0, 8.0, 8.0]];
    check(&attention, &rows, &[7.0; 4]);
}

#[test]
fn norms_gates_and_sums_are_their_formulas() {
    let input = Matrix { rows: 1, columns: 2, values: vec![1.0, 7.0] };
    let (weight, bias) = (vec![2.0, 10.0], vec![0.5, 1.0]);
    for backend in cpus().chain([candle(), padded()]) {
        let check = |found: Vec<f32>, expected: [f32; 2]| assert_close(&backend.name(), &found, &expected, 5e-6);
        // Mean 4, standard deviation 3; mean of squares 25.
        check(backend.norm(&TestNorm::Layer(weight.clone(), Some(bias.clone())), &input), [-1.5, 11.0]);
        check(backend.norm(&TestNorm::Layer(weight.clone(), None), &input), [-2.0, 10.0]);
        check(backend.norm(&TestNorm::Rms(weight.clone()), &input), [0.4, 14.0]);
        check(backend.scaled_sum(&input, &input, 0.25), [0.5, 3.5]);
        let square = |values: [f32; 4]| Matrix { rows: 2, columns: 2, values: values.to_vec() };
        let gated = |activation| {
            let (gate, up) = (Some(square([-3.0, 0.0, 2.0, 0.0])), square([5.0, 0.0, 0.0, 0.5]));
            let down = square([0.0, 1.0, 1.0, 0.0]);
            let layer = TestFeedForward { gate, up, down, bias: vec![0.0, 0.25], activation };
            // The second half changes places; the input is added.
            backend.feed_forward(&layer, 1, &Matrix { rows: 1, columns: 2, values: vec![1.0, 0.5] })
        };
        check(gated(Activation::Relu), [1.0 + 2.25 * 0.5, 0.5]);
        check(gated(Activation::Silu), [1.0 + 2.25 * 0.904_650_5 * 0.5, 0.5 - 3.0 * 0.047_425_87 * 5.0]);
    }
}
