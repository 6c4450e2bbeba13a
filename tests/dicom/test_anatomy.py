"""A segment keeps its label only where every word of it is a listed one, and none a name of the object's people."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medssl.dicom.anatomy import TERMS, WORDS, name_of

NAMES = """
    smith johnson williams brown jones garcia miller davis rodriguez martinez hernandez lopez gonzalez wilson anderson
    thomas taylor moore jackson martin lee perez thompson white harris sanchez clark ramirez lewis robinson walker young
    allen king wright scott torres nguyen hill flores green adams nelson baker hall rivera campbell mitchell carter
    roberts gomez phillips evans turner diaz parker cruz edwards collins reyes stewart morris morales murphy cook rogers
    gutierrez ortiz morgan cooper peterson bailey reed kelly howard ramos kim cox ward richardson watson brooks chavez
    wood james bennett gray mendoza ruiz hughes price alvarez castillo sanders patel myers long ross foster jimenez
    powell jenkins perry russell sullivan bell coleman butler henderson barnes fisher vasquez simmons stone sharp marsh
    head hand foot temple wall branch chambers horn short small little low best case cross field rice pool banks fox
    rose marrow palmer waters may rush burns nash summers winters black blue cole reid webb hunt knight day love stark
    muller schmidt schneider fischer weber meyer wagner becker schulz hoffmann koch bauer richter klein wolf schroeder
    neumann schwarz zimmermann braun hartmann lange krause lehmann kaiser fuchs vogel stein jung berg frank roth
    bernard dubois petit durand leroy moreau simon laurent michel garnier rousseau blanc
    rossi russo ferrari esposito bianchi romano colombo ricci marino greco bruno conti costa ferreira silva santos
    oliveira souza lima nowak kowalski wisniewski wojcik kaminski ivanov petrov popov novak horvat
    wang li zhang liu chen yang huang zhao wu zhou xu sun ma zhu hu guo he lin luo sato suzuki tanaka ito park choi kang
    khan ahmed ali hussain hassan singh kumar shah gupta mehta
    anna maria peter john mary carina iris vera dolores alba regina max mark ray art dean grace faith joy rob bill jack
"""
SHAPES = ["{}", "PTV {}", "{} liver", "Liver_{}_L", "GTV {} 2", "liver{}", "{}Liver", "{0} {1}", "{1} {0} lung"]
CASES = (str.lower, str.upper, str.title)


@given(st.sampled_from(NAMES.split()), st.sampled_from(NAMES.split()), st.sampled_from(SHAPES), st.sampled_from(CASES))
@example("walker", "harris", "PTV {1} {0}", str.title)
@example("white", "rose", "{} {} 42", str.title)
@example("martin", "peters", "{}", str.upper)  # of letters that each stand alone in a keyword of SNOMED CT
def test_no_label_with_a_common_name_in_it_is_kept(name: str, other: str, shape: str, case) -> None:
    assert name_of(7, frozenset(), shape.format(case(name), case(other))) == "segment 7"


def test_no_common_name_is_a_listed_word() -> None:
    assert [name for name in NAMES.split() if re.fullmatch(rf"(?:{TERMS})s?", name)] == []


@given(st.sampled_from([word for word in WORDS.split() if len(word) > 2]), st.sampled_from(CASES))
def test_a_listed_word_that_is_a_name_in_the_object_is_not_kept(word: str, case) -> None:
    labels = [case(word), f"PTV {case(word)}", f"{case(word)}_L 2"]
    assert [name_of(7, frozenset(), label) for label in labels] == labels
    assert {name_of(7, frozenset({word}), label) for label in labels} == {"segment 7"}


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (["Liver"], "Liver"),
        (["left kidney 2"], "left kidney 2"),
        (["GTV Lung_L"], "GTV Lung_L"),
        (["SpinalCord"], "SpinalCord"),
        (["Femur_Head_L"], "Femur_Head_L"),
        (["PTV60"], "PTV60"),
        (["vertebra L1"], "vertebra L1"),
        (["Cerebral White Matter"], "Cerebral White Matter"),
        (["chest wall"], "chest wall"),
        (["Isocenter 1"], "Isocenter 1"),
        (["patient"], "patient"),
        (["tumour Smyczek", "Liver"], "Liver"),
        (["Smyczek", ""], "segment 7"),
        (["PTV Wall"], "segment 7"),
        (["L R 2"], "segment 7"),
        (["C T 2"], "segment 7"),
        (["19670412"], "segment 7"),
        (["Müller"], "segment 7"),
        (["田中太郎 liver"], "segment 7"),
        (["Liver 01/02/85"], "segment 7"),
        (["liver 12-03-85"], "segment 7"),
        (["MRN 123-456-789 liver"], "segment 7"),
        (["kidney 123"], "segment 7"),
        (["liver " * 11], "segment 7"),
        (["12"], "segment 7"),
        ([""], "segment 7"),
    ],
)
def test_only_labels_made_of_listed_words_keep_their_name(labels: list[str], name: str) -> None:
    assert name_of(7, frozenset(), *labels) == name
