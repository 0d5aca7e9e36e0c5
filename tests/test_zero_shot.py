"""Review quality by zero-shot classification: the embedded default, and the same code on other architectures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from customer_insights import deployment, pending, quality, query, sample_data, sequence_classifier, zero_shot
from customer_insights.errors import PermanentError
from customer_insights.settings import Settings, settings
from training import quality_baselines, quality_evaluation

TEXTS = [
    "Great.",
    "A longer text about a chair that lasted three years and 45 days. " * 20,
    "ok",
    "C'est bien",
    "东西不错",
]


@pytest.fixture(scope="module")
def default() -> zero_shot.ZeroShotClassifier:
    return zero_shot.load(Settings())


@pytest.fixture(scope="module")
def measured(default) -> quality_evaluation.QualityEvaluation:
    """What the card and ``make eval`` say."""
    parts = quality_baselines.parts(sample_data.load_written())
    return quality_evaluation.evaluate(default, parts.learnt_from, parts.held_out)


def test_held_out_reviews_get_their_label_more_often_than_by_length(measured) -> None:
    whole = measured.languages[0]
    assert (whole.language, whole.texts) == ("all", sum(found.texts for found in measured.languages[1:]))
    assert whole.macro_f1.value > 0.9
    assert whole.macro_f1.low > whole.length_cutoffs > whole.majority


def test_the_card_names_every_language_that_is_read_no_better_than_its_lengths_tell(measured) -> None:
    assert {found.language for found in measured.languages} > {"ar", "de", "en", "ja", "ko", "ru", "tr", "zh"}
    lost = measured.not_better_than_lengths
    # As many as chance takes from a model that is better in each: 45 texts a language.
    assert len(lost) <= 3
    assert all(found.macro_f1.value > found.length_cutoffs - 0.06 for found in measured.languages)
    card = (zero_shot.EMBEDDED / "MODEL_CARD.md").read_text(encoding="utf-8")
    said = re.search(r"Not better than the length cut-offs in (.*?)\.\*\*", card)
    assert set(lost) <= set(said.group(1).split(", ") if said else ())


def test_reviews_whose_length_misleads_get_their_label(measured) -> None:
    rambling = measured.hard[0]
    assert rambling.name == "generic of more than 40 characters"
    assert rambling.texts > 40
    assert rambling.model > 0.55 > 0.2 > rambling.length_cutoffs


def test_the_probability_of_a_label_is_how_often_it_is_right(measured) -> None:
    assert measured.expected_calibration_error < 0.05
    assert sum(part.texts for part in measured.calibration) == measured.languages[0].texts


def test_the_card_says_what_was_measured(measured) -> None:
    card = (zero_shot.EMBEDDED / "MODEL_CARD.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(): line.split("|")[2:4] for line in card.splitlines() if line.startswith("| ")}
    for found in measured.languages:
        texts, f1 = rows[found.language]
        assert int(texts) == found.texts
        # Another processor may round one text over a threshold.
        assert float(f1.split()[0]) == pytest.approx(found.macro_f1.value, abs=0.03)


def test_the_labels_are_the_settings_labels_in_their_order(default) -> None:
    assert default.labels == Settings().quality_labels == tuple(zero_shot.QUALITY_LABELS.values())
    detailed = (
        "Used daily for 14 months: 3.2 kg, 40 cm wide, battery down from 9 to 7 hours, one screw replaced in May."
    )
    assert default.probabilities([detailed, "Super!!!"]).argmax(axis=1).tolist() == [0, 2]


def test_odd_texts_get_probabilities(default) -> None:
    texts = ["", " ", "</s>", "a </s></s> b <pad> <s>", "lone \ud800 surrogate", "word " * 1_000_000, "\x00", "👍"]
    probabilities = default.probabilities(texts)
    assert probabilities.shape == (8, 3)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(8))
    assert default.probabilities([]).shape == (0, 3)


def test_a_text_is_labelled_the_same_alone_and_among_others(default) -> None:
    alone = np.concatenate([default.probabilities([text]) for text in TEXTS])
    assert np.allclose(default.probabilities(TEXTS), alone, atol=1e-5)


def test_the_weights_load_by_transformers_alone_and_are_small() -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(zero_shot.EMBEDDED)
    assert type(model).__name__ == "BartForSequenceClassification"
    assert (
        AutoTokenizer.from_pretrained(zero_shot.EMBEDDED)("Straße 雪 🎁")["input_ids"][-1] == model.config.eos_token_id
    )
    assert sum(path.stat().st_size for path in zero_shot.EMBEDDED.iterdir()) < 4_000_000


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("QUALITY_LABELS", "", "two or more"),
        ("QUALITY_LABELS", "useful", "two or more"),
        ("QUALITY_LABELS", "useful, useless, Useful", "named once, found .'useful'."),
        ("QUALITY_LABELS", '["useful", " "]', "leave the empty one out"),
        ("QUALITY_LABELS", '["useful", ', "a list of labels was expected"),
        ("QUALITY_HYPOTHESIS_TEMPLATE", "This review is good.", "one {} where the label goes"),
        ("QUALITY_HYPOTHESIS_TEMPLATE", "{} is {}.", "one {} where the label goes"),
        ("QUALITY_HYPOTHESIS_TEMPLATE", "This review is {0}.", "one {} where the label goes"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(
    name: str, value: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"CUSTOMER_INSIGHTS_{name}", value)
    with pytest.raises(ValidationError, match=complaint) as refused:
        Settings()
    assert refused.value.errors()[0]["loc"] == (name.lower(),)


@pytest.mark.parametrize("value", ["useful, useless", '["useful", "useless"]'])
def test_labels_are_words_between_commas_or_a_json_list(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUSTOMER_INSIGHTS_QUALITY_LABELS", value)
    assert Settings().quality_labels == ("useful", "useless")
    monkeypatch.setenv("CUSTOMER_INSIGHTS_QUALITY_LABELS", '["short, dull", "long"]')
    assert Settings().quality_labels == ("short, dull", "long")


@pytest.mark.parametrize(
    "other", [{"quality_labels": ("useful", "useless")}, {"quality_hypothesis_template": "This text is {}."}]
)
def test_the_embedded_model_refuses_a_question_that_it_has_not_learnt(other: dict) -> None:
    for ask in (zero_shot.identity, zero_shot.load):
        with pytest.raises(PermanentError, match="CUSTOMER_INSIGHTS_QUALITY_MODEL to a model of inference on the hub"):
            ask(Settings(**other))
    # Fewer of its labels it knows, and a model of the hub is asked whatever the settings say.
    assert zero_shot.identity(Settings(quality_labels=Settings().quality_labels[1:]))
    assert zero_shot.identity(Settings(quality_model=zero_shot.PRODUCTION_MODEL, **other))


def test_another_label_set_labels_every_review_again(embedded) -> None:
    session = embedded.session()
    deployment.deploy(session, settings())
    window = pending.Window("2026-02-02", "2026-02-02")
    query.rows(
        session,
        "INSERT INTO RAW_REVIEWS (UUID, REVIEW_TEXT, TEXT_HASH, LANGUAGE, LANGUAGE_CONFIDENCE, SOURCE_FILE,"
        " SOURCE_LINE, ARRIVAL_DATE, INGESTED_AT, RUN_ID)"
        " SELECT 'labels-1', 'A good chair', 'h', 'en', 1, 'f', 1, '2026-02-02'::DATE, SYSDATE(), 'r'",
    )
    query.rows(
        session,
        "INSERT INTO REVIEW_QUALITY (UUID, TEXT_HASH, REVIEW_QUALITY, QUALITY_PROBABILITY, QUALITY_PROBABILITIES,"
        " QUALITY_SCORE, BACKEND, MODEL, REVISION, ARRIVAL_DATE, SCORED_AT, RUN_ID)"
        " SELECT 'labels-1', 'h', 'basic', 0.75, '{}', 0.5, 'b', 'm', ?, '2026-02-02'::DATE, SYSDATE(), 'r'",
        [quality.revision(Settings(), "v1")],
    )

    def left(**changed: object) -> int:
        return pending.count(session, quality.quality_pending(Settings(**changed), window, "m", "v1"))

    try:
        assert left() == 0
        assert left(quality_labels=("useful", "useless")) == 1
        assert left(quality_labels=Settings().quality_labels[::-1]) == 1
        assert left(quality_hypothesis_template="This text is {}.") == 1
        assert quality.labels_by_language(session, (window.start, window.end)) == {"en": {"basic": 1}}
        assert quality.probabilities(session, (window.start, window.end)) == [0.75]
    finally:
        for table in ("RAW_REVIEWS", "REVIEW_QUALITY"):
            query.rows(session, f"DELETE FROM {table} WHERE UUID = 'labels-1'")


def test_a_row_holds_the_probability_of_every_label_and_the_first_label_scores_one() -> None:
    rows = quality.QualityScorer(Settings())(pd.DataFrame({"REVIEW_TEXT": TEXTS}, index=[3, 1, 4, 2, 9]))
    assert list(rows.index) == [3, 1, 4, 2, 9]
    for row in rows.to_dict("records"):
        found = json.loads(row["QUALITY_PROBABILITIES"])
        assert tuple(found) == Settings().quality_labels
        assert sum(found.values()) == pytest.approx(1, abs=1e-5)
        assert row["REVIEW_QUALITY"] == max(found, key=found.__getitem__)
        assert row["QUALITY_PROBABILITY"] == pytest.approx(max(found.values()), abs=1e-6)
        detailed, basic, _ = found.values()
        assert row["QUALITY_SCORE"] == pytest.approx(detailed + basic / 2, abs=1e-5)
    assert quality.scores(np.eye(4)) == pytest.approx([1, 2 / 3, 1 / 3, 0])


def test_the_model_is_identified_before_it_is_loaded(default) -> None:
    assert zero_shot.identity(Settings()) == (default.name, default.revision)
    name, revision = zero_shot.identity(Settings(quality_model=zero_shot.PRODUCTION_MODEL))
    assert (name, len(revision)) == ("facebook/bart-large-mnli", 40)
    with pytest.raises(ValueError, match="set its revision"):
        zero_shot.identity(Settings(quality_model="somebody/some-model"))


def _saved_tokenizer(folder: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import RobertaProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(["This review is of a thing."], vocab_size=300, special_tokens=specials)
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, unk_token="<unk>", model_max_length=128, **names
    ).save_pretrained(folder)


@pytest.fixture(scope="module", params=["bart", "deberta-v2", "xlm-roberta"])
def inference_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of inference with random weights; where entailment stands differs as it does between real ones."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp(request.param)
    _saved_tokenizer(folder)
    torch.manual_seed(0)
    labels = ["contradiction", "neutral", "entailment"]
    if request.param != "bart":
        labels.reverse()
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    if request.param != "bart":
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    config = AutoConfig.for_model(
        request.param,
        vocab_size=300,
        max_position_embeddings=140,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        **sizes,
        **{name: 2 for name in ("encoder_attention_heads", "decoder_attention_heads") if request.param == "bart"},
        **{name: 2 for name in ("num_attention_heads",) if request.param != "bart"},
    )
    model = AutoModelForSequenceClassification.from_config(config)
    for parameter in model.parameters():
        # The initial weights are so small that every text would get the same answer.
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return folder


def test_any_architecture_answers_as_the_pipeline_of_transformers(inference_model: Path) -> None:
    from transformers import pipeline

    labels = ["short", "long", "rich in numbers"]
    ours = zero_shot.ZeroShotClassifier(str(inference_model), labels=labels).probabilities(TEXTS)
    reference = pipeline("zero-shot-classification", model=str(inference_model), device="cpu")
    for row, text in zip(ours, TEXTS, strict=True):
        answer = reference(text, labels, hypothesis_template=zero_shot.HYPOTHESIS_TEMPLATE)
        expected = dict(zip(answer["labels"], answer["scores"], strict=True))
        assert row == pytest.approx([expected[label] for label in labels], abs=1e-6)
    assert np.ptp(ours) > 0.001


def test_any_architecture_survives_the_marks_of_its_tokenizer_in_a_text(inference_model: Path) -> None:
    classifier = zero_shot.ZeroShotClassifier(str(inference_model))
    probabilities = classifier.probabilities(["a </s> in the text", "", "<s></s>", "none"])
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(4))


def test_a_model_without_entailment_is_refused(tmp_path: Path) -> None:
    from transformers import BartConfig, BartForSequenceClassification

    _saved_tokenizer(tmp_path)
    small = {"d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1, "vocab_size": 300}
    BartForSequenceClassification(BartConfig(**small, **heads)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="one named entailment"):
        zero_shot.ZeroShotClassifier(str(tmp_path))


def test_a_long_premise_is_cut_and_its_hypothesis_is_not(inference_model: Path) -> None:
    classifier = sequence_classifier.SequenceClassifier(str(inference_model), None, threads=1, token_budget=512)
    long = "a thing " * 500
    logits = classifier.logits([long, long], ["This review is short.", "This review is of a thing."])
    assert not np.allclose(logits[0], logits[1])


def test_a_folder_of_the_project_is_found_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    by_path = zero_shot.identity(Settings(quality_model=str(zero_shot.EMBEDDED)))
    monkeypatch.chdir(tmp_path)
    assert zero_shot.identity(Settings(quality_model="customer_insights/weights/quality_nli")) == by_path
    with pytest.raises(PermanentError, match="has learnt"):
        zero_shot.load(Settings(quality_model="customer_insights/weights/quality_nli", quality_labels=("a", "b")))
