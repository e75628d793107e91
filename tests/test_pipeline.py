"""A run's folder in transformers: its tokenizer tokenizes as ours does, and pipeline() writes."""

import json
import os

import numpy as np
import pytest

import minimixce as mm
from minimixce import text

TOKENIZERS = {
    "character": text.CharTokenizer("\n !.abcdeé漢\U0001f600"),
    "byte": text.ByteTokenizer(),
    "word": text.WordTokenizer(["the", "cat", "cats", ".", "don't", "<|endoftext|>"]),
}
TEXTS = {
    "character": ["a", "abba cab!\nde", "é漢\U0001f600", "  a  ", ""],
    "byte": ["a", "the cat\r\n\tsat", "é漢\U0001f600", "  two  spaces ", "\x00\x7f", ""],
    "word": ["the cat", "the cats . don't", "", " the\n cat "],
}


def folder_of(tokenizer, path, block_size=16):
    config = mm.GPTConfig(tokenizer.vocab_size, block_size, 2, 2, 8)
    model = mm.GPT(config, seed=3, device="cpu")
    rng = np.random.default_rng(0)
    for p in model.params.values():
        p += (0.3 * rng.standard_normal(p.shape)).astype(p.dtype)
    model.save(path, boundary=tokenizer.boundary)
    text.save_tokenizer(tokenizer, path)
    return model


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_folder_says_what_other_libraries_need_to_tokenize(kind, tmp_path):
    tokenizer = TOKENIZERS[kind]
    folder_of(tokenizer, tmp_path)
    found = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert sorted(found["model"]["vocab"].values()) == list(range(tokenizer.vocab_size))
    assert [token["id"] for token in found["added_tokens"]] == [0]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    boundary = found["added_tokens"][0]["content"]
    assert config["bos_token"] == config["eos_token"] == boundary
    assert found["model"]["vocab"][boundary] == 0
    assert text.load_tokenizer(tmp_path).fields() == tokenizer.fields()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_users_files_are_not_overwritten(name, overwrite, tmp_path):
    from minimixce.experiments import jobs, options

    (tmp_path / "story.txt").write_text("the cat sat on the mat\n" * 40)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    given = options.TrainingOptions(data=[str(tmp_path / "story.txt")], device="cpu")
    with pytest.raises(FileExistsError, match=f"already holds {name}, which is no run's"):
        jobs.train(given, tmp_path / "run", overwrite=overwrite, say=lambda line: None)
    assert (tmp_path / "run" / name).read_text() == "mine"


@pytest.fixture
def transformers():
    os.environ["HF_HUB_OFFLINE"] = "1"
    return pytest.importorskip("transformers")


@pytest.mark.parity
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_transformers_tokenizes_as_we_do(kind, tmp_path, transformers):
    tokenizer = TOKENIZERS[kind]
    folder_of(tokenizer, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == theirs.vocab_size == tokenizer.vocab_size
    assert theirs.bos_token_id == theirs.eos_token_id == 0
    for piece in TEXTS[kind]:
        ids = tokenizer.encode(piece).tolist()
        assert theirs(piece, add_special_tokens=False)["input_ids"] == ids
        assert theirs(piece)["input_ids"] == [0, *ids]  # as `minimixce sample` begins
        decoded = theirs.decode([0, *ids, 0], skip_special_tokens=True)
        space = " " if kind == "word" and ids else ""  # before each word
        assert decoded == space + tokenizer.decode([0, *ids, 0])


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["character", "word"])
def test_what_the_tokenizer_does_not_know_is_an_error_there_too(kind, tmp_path, transformers):
    folder_of(TOKENIZERS[kind], tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(Exception, match="UNK"):
        theirs("a zebra")


@pytest.mark.parity
def test_tokenizers_opens_the_file(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    for kind, tokenizer in TOKENIZERS.items():
        folder_of(tokenizer, tmp_path / kind)
        theirs = tokenizers.Tokenizer.from_file(str(tmp_path / kind / "tokenizer.json"))
        for piece in TEXTS[kind]:
            ids = tokenizer.encode(piece).tolist()
            assert theirs.encode(piece, add_special_tokens=False).ids == ids
            assert theirs.decode(ids).removeprefix(" " * (kind == "word")) == tokenizer.decode(ids)


@pytest.mark.parity
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_pipeline_writes_what_we_write(kind, tmp_path, transformers):
    tokenizer = TOKENIZERS[kind]
    model = folder_of(tokenizer, tmp_path)
    write = transformers.pipeline("text-generation", model=str(tmp_path), device="cpu")
    for prompt in TEXTS[kind][:2]:
        start = np.array([[0, *tokenizer.encode(prompt).tolist()]])
        ids = model.generate(start, 3, temperature=0, stop=0)[0]
        written = write(prompt, do_sample=False, max_new_tokens=3)[0]["generated_text"]
        assert written == tokenizer.decode(ids)
        assert len(written) > len(prompt)
    # with no options it stays inside the window of 16 positions
    free = write(TEXTS[kind][0])[0]["generated_text"]
    assert 0 < len(free.split() if kind == "word" else free) < 16
