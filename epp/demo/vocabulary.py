"""The words of the demo's language model, and the byte-pair merges learnt from them. Pure.

A list of everyday words stands in for a training text: merges learnt from it split ordinary English prose into pieces of
about four bytes, which is what the tokenizers of real models do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

# Most frequent first: the rank serves as the word's weight in training.
_WORD_LIST = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you
were all her she there would their we him been has when who will no more if out so up said what its about than into them
can only other time new some could these two may first then do any like my now over such our man me even most made after
also did many off before must well back through years much where your way down should because long each just state those
people too mr little very make good world still see own work men here get both between life being under never day same
another know while last might us great old year come since against go came right used take three states himself few
house use during without again place american around however home small found thought went say part once general high
upon school every need does got left number course war until always away something fact water though less public put
think almost hand enough far took head yet government system better set told nothing night end why called find going
look asked later knew point next program city business give group toward young days let room word president side social
given present several order national possible rather second face per among form important often things looked early
white case large four within felt along children saw best church ever least power development light thing seemed family
interest want members mind area country others turned although done open god service certain kind problem began
different door thus help means sense whole matter itself york human law line action example hands level local company
show car words taken history past having known air week become question body feel money sure free full today run process
result model server request response answer token tokens cache prefix prompt text language message user assistant write
read build test check change keep start stop send receive network data memory file code value function return list table
row column name type string error report explain describe summary document section chapter page paragraph sentence
customer support product price delivery account please thank hello morning evening provide information include follow
following instruction rule rules policy careful polite helpful short clear detail details step steps weather travel
train plane hotel street garden kitchen dinner coffee bread apple orange river mountain forest ocean island winter
summer spring autumn yellow green blue black red brown gray bright dark heavy quick slow quiet loud happy sad angry
strong weak simple complex modern ancient common rare empty wide narrow deep shallow warm cold fresh clean dirty broken
doctor teacher student engineer lawyer farmer writer artist scientist officer driver pilot captain soldier friend
neighbor mother father sister brother daughter son wife husband child baby animal horse dog cat bird fish flower tree
stone metal paper letter book story poem song music picture color sound voice smile laugh dream sleep walk stand sit
fall rise grow move carry bring hold catch throw pull push close break repair teach learn study remember forget
understand believe hope wish love hate fear fight win lose pay buy sell spend save count measure compare choose decide
agree refuse allow prevent protect attack defend create destroy develop design produce improve increase reduce continue
finish begin performance computer software hardware machine engine energy electric digital internet storage database
application interface protocol version release update install configure deploy monitor latency throughput capacity
resource balance schedule queue worker cluster replica endpoint gateway proxy traffic route session client available
reasonable considerable necessary particular particularly especially usually generally probably actually finally
recently suddenly certainly directly exactly simply quickly slowly carefully successfully together education
organization production population situation condition position relation operation construction attention communication
international professional traditional environmental experimental experience difference management department agreement
statement movement treatment investment equipment argument nation direction collection election protection connection
selection restriction working making taking looking coming giving getting putting running reading writing speaking
listening building teaching learning understanding beginning ending meaning feeling everything anything ability activity
community university security quality quantity property society variety opportunity responsibility natural rational
personal political physical chemical medical musical technical critical typical practical economic academic scientific
specific democratic automatic domestic basic wonderful powerful beautiful successful useful peaceful grateful thoughtful
meaningful dangerous famous various serious previous obvious curious religious nervous generous effective active native
relative positive negative creative sensitive expensive attractive
"""
WORDS = _WORD_LIST.split()

# How a word shows up in prose, and how many times as often as the rarest of these.
_FORMS = ((" {word}", 4), (" {capital}", 1), ("{capital}", 1), (" {word}s", 1), ("{word}", 1))


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for byte values 0..255 in a GPT-2 style vocabulary.

    Printable Latin-1 bytes stand for themselves; the others are numbered from U+0100 on, in byte order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    stand_ins = {byte: 0x100 + position for position, byte in enumerate(others)}
    return [chr(stand_ins.get(byte, byte)) for byte in range(256)]


def learn_merges(words: list[str], count: int) -> list[tuple[str, str]]:
    """Learn up to ``count`` byte-pair merges, best first, from ``words`` (distinct, most frequent first).

    Each word counts in the forms it takes in prose, weighted by its rank. Ties go to the pair that sorts first, so
    the result depends on nothing but the arguments.
    """
    pieces, weights = _training_set(words)
    pair_weights: Counter[tuple[str, str]] = Counter()
    used_in: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for index, word in enumerate(pieces):
        _count_pairs(word, weights[index], index, pair_weights, used_in)
    merges: list[tuple[str, str]] = []
    while len(merges) < count and pair_weights:
        best = min(pair_weights, key=lambda pair: (-pair_weights[pair], pair))
        if pair_weights[best] <= 0:
            break
        merges.append(best)
        for index in used_in.pop(best):
            _count_pairs(pieces[index], -weights[index], index, pair_weights, used_in)
            pieces[index] = _merge(pieces[index], best)
            _count_pairs(pieces[index], weights[index], index, pair_weights, used_in)
        pair_weights.pop(best, None)
    return merges


def _training_set(words: list[str]) -> tuple[list[list[str]], list[int]]:
    """The words as lists of stand-in characters, and each one's weight."""
    alphabet = byte_alphabet()
    texts: list[str] = []
    weights: list[int] = []
    for rank, word in enumerate(words):
        for form, share in _FORMS:
            texts.append(form.format(word=word, capital=word.capitalize()))
            weights.append(share * (len(words) // (rank + 1) + 1))
    return [[alphabet[byte] for byte in text.encode()] for text in texts], weights


def _count_pairs(
    word: list[str],
    weight: int,
    index: int,
    pair_weights: Counter[tuple[str, str]],
    used_in: defaultdict[tuple[str, str], set[int]],
) -> None:
    """Add ``weight`` to every pair of neighbours in ``word``, and note that word ``index`` holds them."""
    for pair in pairwise(word):
        pair_weights[pair] += weight
        used_in[pair].add(index)


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    """``word`` with every occurrence of ``pair`` joined, left to right."""
    merged: list[str] = []
    position = 0
    while position < len(word):
        if tuple(word[position : position + 2]) == pair:
            merged.append(pair[0] + pair[1])
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return merged
