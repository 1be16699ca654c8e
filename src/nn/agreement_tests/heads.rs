//! What heads want of hidden states: weights of a vocabulary, copies.

use super::*;

/// Blocks of 16 tokens, which long sequences fill several of and short ones share.
#[test]
fn weights_of_a_vocabulary_agree_whatever_the_blocks() {
    let (vocabulary, width) = ((1 << 22) / 16, 3);
    let lengths = [1, 20, 0, 5, 37, 2];
    let batch = batch_of(&lengths);
    let weight = noise_matrix(1, 0.5, vocabulary, width);
    let bias = noise(2, 0.5, vocabulary);
    let input = noise_matrix(3, 1.0, batch.tokens(), width);
    let layer = TestDecoder { weight, bias, input };
    for (strategy, activation) in [
        (SpladeStrategy::Max, SpladeActivation::Relu),
        (SpladeStrategy::Sum, SpladeActivation::Relu),
        (SpladeStrategy::Max, SpladeActivation::Log1pRelu),
    ] {
        let pooling = SpladePooling { strategy, activation };
        let dense = |vectors: &[SparseVector]| {
            let mut all = vec![0.0; lengths.len() * vocabulary];
            for (vector, row) in vectors.iter().zip(all.chunks_exact_mut(vocabulary)) {
                vector.indices.iter().zip(&vector.values).for_each(|(index, value)| row[*index as usize] = *value);
            }
            all
        };
        let expected = dense(&candle().weights(pooling, &layer, &batch));
        assert!(expected.iter().any(|weight| *weight > 0.0) && expected.contains(&0.0));
        for backend in cpus().chain([padded()]) {
            let found = backend.weights(pooling, &layer, &batch);
            assert_eq!(found.len(), lengths.len());
            assert!(found[2].indices.is_empty(), "a sequence without tokens has no weights");
            assert_close(&backend.name(), &dense(&found), &expected, 2e-6);
        }
    }
}

/// On a device 16 tokens have logits at a time, and 16 sequences wait to be copied.
#[test]
fn weights_of_a_vocabulary_agree_where_a_batch_has_several_copies() {
    let vocabulary = 1 << 21;
    let batch = batch_of(&[&[1, 2, 37][..], &[1; 16]].concat());
    let input = noise_matrix(3, 1.0, batch.tokens(), 1);
    let layer = TestDecoder { weight: noise_matrix(1, 0.5, vocabulary, 1), bias: noise(2, 0.5, vocabulary), input };
    let pooling = SpladePooling { strategy: SpladeStrategy::Max, activation: SpladeActivation::Relu };
    let expected = cpus().last().unwrap().weights(pooling, &layer, &batch);
    for backend in [candle(), padded()] {
        let found = backend.weights(pooling, &layer, &batch);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!(found.indices == expected.indices, "{}: other tokens have weights", backend.name());
            assert_close(&backend.name(), &found.values, &expected.values, 2e-6);
        }
    }
}

/// Of one token of one sequence, whatever the others have, and also where padding repeats it.
#[test]
fn a_weight_that_is_no_number_stays_so_and_stays_in_its_sequence() {
    let lengths = [3, 9, 4];
    let batch = batch_of(&lengths);
    for token in [3, 7, 11] {
        for strategy in [SpladeStrategy::Max, SpladeStrategy::Sum] {
            let pooling = SpladePooling { strategy, activation: SpladeActivation::Relu };
            let mut input = noise_matrix(3, 1.0, batch.tokens(), 5);
            input.values[token * 5] = f32::NAN;
            let layer = TestDecoder { weight: noise_matrix(1, 0.5, 40, 5), bias: noise(2, 0.5, 40), input };
            for backend in cpus().chain([candle(), padded()]) {
                let found = backend.weights(pooling, &layer, &batch);
                let finite = found.iter().map(|vector| vector.values.iter().all(|weight| weight.is_finite()));
                assert_eq!(finite.collect::<Vec<_>>(), [true, false, true], "{}, token {token}", backend.name());
            }
        }
    }
}

#[test]
fn what_is_copied_is_what_was_wanted() {
    #[track_caller]
    fn check<B: Backend + Clone>(backend: &Named<B>) {
        let input = noise_matrix(1, 1.0, 5, 3);
        let hidden = backend.up(&input);
        let product = Matrix { rows: 2, columns: 3, values: vec![1.0, 0.0, 0.0, 0.0, 2.0, -1.0] };
        let layer = backend.1.projection(product, Some(vec![0.5, 0.0])).unwrap();
        let (some, none) = ([4, 1], []);
        let wanted = [
            Wanted { tokens: None, projection: None },
            Wanted { tokens: Some(&none[..]), projection: Some(&layer) },
            Wanted { tokens: Some(&some[..]), projection: Some(&layer) },
            Wanted { tokens: Some(&some[..]), projection: None },
        ];
        let found = backend.1.copies(&hidden, &wanted).unwrap().get().unwrap();
        let row = |token: u32| &input.values[3 * token as usize..][..3];
        let product = |token| [row(token)[0] + 0.5, 2.0 * row(token)[1] - row(token)[2]];
        let expected = [input.values.clone(), vec![], some.map(product).concat(), some.map(row).concat()];
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert_close(&backend.name(), found, expected, 1e-6);
        }
        assert!(backend.1.copies(&hidden, &[]).unwrap().get().unwrap().is_empty());
    }
    check(&Named("cpu".to_owned(), Cpu::new()));
    check(&Named("candle".to_owned(), Candle::cpu()));
}
