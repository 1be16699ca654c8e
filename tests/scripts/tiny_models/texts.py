"""The texts: a few sentences that tokenizers are trained on, and those that are embedded."""

CORPUS = [
    "The tide goes out twice a day and leaves small pools between the stones of the harbour.",
    "A crab waits under the weed until the water comes back over the rocks.",
    "Search for the nearest passage: which animals live between the tides on a stony shore?",
    "Every vector stands for a text, and texts that mean the same stand near one another.",
    "query: where does the water go?  passage: it goes out to sea and it comes back again.",
    "Represent this sentence; find the answer that was given to the question before.",
    "In 2024 the keeper counted 318 limpets, 57 anemones and 6 starfish on the northern stones.",
    "def count(stones): return sum(1 for stone in stones if stone.wet and not stone.empty)",
    "let mut total = 0; for (name, value) in counts.iter() { total += value; }",
    "Le crabe était caché sous l'algue brûlée près du café, où la mer est très calme.",
    "Der Krebs wartet unter dem Stein; die Flut kommt später, und das Wasser läuft über die Größe.",
    "Краб ждёт под камнем, пока вода не вернётся к берегу моря.",
    "潮が引くと小さな蟹が石の間に見える。海の水は戻る。",
    "The keeper said that the sea keeps its own time, and that nobody has ever seen it wait.",
]
LONG = (
    "The keeper of the harbour wrote down every tide, and what it left behind: a crab, two shells, the end of a rope. "
    "Nobody asked for the list, and whether the last line still counts depends on where the text is cut. "
)
SENTENCE = "The crab waits between the wet stones."
TEXTS = [
    SENTENCE,
    "harbour",
    "",
    " \n\t ",
    "Crème brûlée im Café: naïve Größe, e\u0301 — 12,50 €",
    "潮が引く 🦀🌊 Краб ﬁn Ｗide ΩΜ",
    "a [SEP] b [CLS] </s> c <s> <|endoftext|> <eos> [MASK] <mask> [PAD]<pad> [UNK] ##s ▁x",
    "def count(stones):\n\treturn  sum(1 for s in stones)  # 0x1F\r\n",
    "ununderstandabilityness" * 2,
    LONG * 3,
]
FEW = [SENTENCE, "", LONG * 3]
