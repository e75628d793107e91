"""Writes data/stories.json, the world of minimixce.worlds.stories(): python data/make_stories.py

The grammar is one function: `choices` says which words can follow in a situation, how probable each
is, and what the situation is then. A situation remembers what the rest of the sentence depends on:
the subject's pronoun and number, the phrase under way, and what has been said already. Every
situation that can be met becomes a state.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from minimixce.automaton import World

FILE = Path(__file__).with_name("stories.json")

# Words and their weights. Verbs and nouns are given as (one, many).
ADJECTIVES = {"little": 4, "young": 3, "hungry": 2, "happy": 1}
NOUNS = {
    "she": {("girl", "girls"): 4, ("queen", "queens"): 2},
    "he": {("boy", "boys"): 4, ("king", "kings"): 2},
    "it": {("dog", "dogs"): 4, ("cat", "cats"): 3, ("bird", "birds"): 2},
}
PEOPLE_DO = {
    ("reads", "read"): 5,
    ("sees", "see"): 4,
    ("likes", "like"): 4,
    ("writes", "write"): 3,
    ("sings", "sing"): 3,
    ("eats", "eat"): 2,
    ("sleeps", "sleep"): 2,
    ("runs", "run"): 1,
}
ANIMALS_DO = {
    ("chases", "chase"): 5,
    ("sleeps", "sleep"): 4,
    ("sees", "see"): 3,
    ("runs", "run"): 3,
    ("eats", "eat"): 3,
    ("likes", "like"): 2,
}
TAKES = {  # the object of a verb; verbs not listed have none
    "sees": "someone",
    "likes": "someone",
    "chases": "animal",
    "reads": "reading",
    "writes": "writing",
    "sings": "song",
    "eats": "food",
}
# objects that are nouns of these groups
SOMEONE = {"someone": ["she", "he", "it"], "animal": ["it"]}
THINGS = {
    "reading": {"book": 4, "letter": 2},
    "writing": {"letter": 5, "song": 2, "book": 1},
    "song": {"song": 1},
    "food": {"fish": 3, "bread": 2},
}
# at most one of these in a sentence: no "sleeps and sleeps"
LIGHT = {"sleeps", "runs", "sings", "eats"}
ADVERBS = {"often": 3, "never": 2, "always": 1}
PREPOSITIONS = {"in": 3, "near": 2}
PLACES = {"garden": 4, "house": 3, "castle": 1}


class Situation(NamedTuple):
    """What comes next, and what has to be remembered for the rest of the sentence."""

    step: str = "determiner"
    # of the subject: she, he, it; kept in the plural too, where it decides what the subject can do
    pronoun: str = ""
    number: str = ""  # of the subject: one, many
    clause: str = "main"  # main, relative (to the subject), second (after "and", "but")
    object: str = ""  # kind of the object under way; "" while that is the subject
    noun: str = ""  # number that the determiner under way asks for: one, many, either
    placed: bool = False  # whether a place was named
    light: bool = False  # whether a light verb was said


def choices(now):
    """{word: (probability, next situation)}; the word "" ends the sentence."""
    match now.step:
        case "determiner":
            either, one, many = (
                now._replace(step="adjective", noun=number) for number in ("either", "one", "many")
            )
            some_many = some(0.25, {"two": 2, "these": 1}, many)
            return some(0.4, {"the": 1}, either) | some(0.35, {"a": 3, "this": 1}, one) | some_many
        case "adjective":
            return some(0.3, ADJECTIVES, now._replace(step="noun")) | nouns(now, 0.7)
        case "noun":
            return nouns(now, 1)
        case "thing determiner":
            return some(1, {"a": 4, "the": 3, "this": 1}, now._replace(step="thing"))
        case "thing":
            return some(1, THINGS[now.object], after_clause(now))
        case "subject":
            who = {"that" if now.pronoun == "it" else "who": 1}
            relative = some(0.2, who, now._replace(step="verb", clause="relative"))
            return (
                predicate(now, 0.65)
                | relative
                | some(0.15, PREPOSITIONS, now._replace(step="subject's place", placed=True))
            )
        case "subject's place" | "last place":
            return some(1, {"the": 1}, now._replace(step=now.step + " name"))
        case "subject's place name":
            return some(1, PLACES, now._replace(step="predicate"))
        case "last place name":
            return some(1, PLACES, now._replace(step="end"))
        case "predicate":
            return predicate(now, 1)
        case "verb":
            return verbs(now, 1)
        case "and":
            return verbs(now, 0.6) | pronoun(now, 0.4)
        case "but":
            return pronoun(now, 1)
        case "end":
            going_on = {}
            if not now.placed:
                going_on |= some(0.2, PREPOSITIONS, now._replace(step="last place", placed=True))
            if now.clause == "main":
                going_on |= some(0.2, {"and": 1}, now._replace(step="and", clause="second"))
                going_on |= some(0.15, {"but": 1}, now._replace(step="but", clause="second"))
            return going_on | {"": (1 - sum(share for share, _ in going_on.values()), Situation())}


def some(probability, weights, then):
    """The words of weights, sharing a probability; all lead to one situation."""
    return {
        word: (probability * weight / sum(weights.values()), then)
        for word, weight in weights.items()
    }


def nouns(now, probability):
    """Nouns that fit the determiner and the verb: as the subject, then remembered, or as an object,
    then forgotten.
    """
    weights, then = {}, {}
    for pronoun in SOMEONE[now.object] if now.object else NOUNS:
        for (one, many), weight in NOUNS[pronoun].items():
            for number, word, factor in (("one", one, 3), ("many", many, 2)):
                if now.noun in (number, "either"):
                    weights[word] = factor * weight
                    then[word] = (
                        after_clause(now) if now.object else Situation("subject", pronoun, number)
                    )
    return {
        word: (share, then[word]) for word, (share, _) in some(probability, weights, None).items()
    }


def predicate(now, probability):
    """The verb, or an adverb and then the verb."""
    return verbs(now, 0.75 * probability) | some(
        0.25 * probability, ADVERBS, now._replace(step="verb")
    )


def pronoun(now, probability):
    """The pronoun of the subject, before a predicate of its own."""
    return some(
        probability,
        {now.pronoun if now.number == "one" else "they": 1},
        now._replace(step="predicate"),
    )


def verbs(now, probability):
    """What the subject can do, in its number; in a relative clause only to someone, so that two
    verbs never meet.
    """
    weights, then = {}, {}
    for (one, many), weight in (ANIMALS_DO if now.pronoun == "it" else PEOPLE_DO).items():
        takes, word = TAKES.get(one), one if now.number == "one" else many
        if (now.clause == "relative" and takes not in SOMEONE) or (now.light and one in LIGHT):
            continue
        weights[word] = weight
        step = (
            "determiner" if takes in SOMEONE else "thing" if takes == "food" else "thing determiner"
        )
        after = now._replace(light=one in LIGHT and now.clause == "main")
        then[word] = after._replace(step=step, object=takes) if takes else after_clause(after)
    return {
        word: (share, then[word]) for word, (share, _) in some(probability, weights, None).items()
    }


def after_clause(now):
    """What follows a verb and its object; what is no longer needed is forgotten, which keeps the
    states few.
    """
    if now.clause == "relative":
        return Situation("predicate", now.pronoun, now.number)
    if now.clause == "main":
        return Situation("end", now.pronoun, now.number, placed=now.placed, light=now.light)
    return Situation("end", clause="second", placed=now.placed)


def build():
    """The automaton of the grammar: situations become states in the order in which they are met,
    words tokens likewise.
    """
    states, words = {Situation(): 0}, {"": 0}
    moves, waiting = [], [Situation()]
    for now in waiting:  # grows on the way
        for word, (probability, then) in choices(now).items():
            if then not in states:
                states[then] = len(states)
                waiting.append(then)
            moves.append(
                (states[now], words.setdefault(word, len(words)), probability, states[then])
            )
    probs = np.zeros((len(states), len(words)))
    # an impossible word keeps the state
    next_state = np.tile(np.arange(len(states))[:, None], len(words))
    for state, token, probability, target in moves:
        probs[state, token], next_state[state, token] = probability, target
    return World(probs, next_state, list(words), name="stories")


if __name__ == "__main__":
    build().save(FILE, overwrite=True)
    print(build().describe())
