"""The table of texts: both languages have every text, and the page uses every text."""

import re
import string

import pytest
from helpers import ROOT

from alexnet_jax.model.layers import Layer
from alexnet_jax.tour.numbers import Numbers
from alexnet_jax.tour.texts import LANGUAGES, Texts, table

FOLDER = ROOT / 'alexnet_jax' / 'tour'
VIETNAMESE = set('ăâđêôơưàảãáạằẳẵắặầẩẫấậèẻẽéẹềểễếệìỉĩíịòỏõóọồổỗốộờởỡớợùủũúụừửữứựỳỷỹýỵ')
SAME = {'bias', 'slices_filter', 'pooling_max', 'pooling_average'}  # terms that the notes keep


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize('key', table())
def test_every_text_is_there_in_both_languages(key):
    texts = table()[key]
    assert tuple(texts) == LANGUAGES
    assert all(text.strip() == text and text for text in texts.values())
    assert placeholders(texts['en']) == placeholders(texts['vi'])
    assert '<' not in ''.join(texts.values()).replace('x < 0', '')
    if key not in SAME:
        assert texts['en'] != texts['vi']
        assert texts['en'].isascii() or not VIETNAMESE & set(texts['en'].lower())


def test_vietnamese_is_written_with_its_marks():
    """Of the texts that are sentences, each has a letter that only Vietnamese has."""
    sentences = [t['vi'] for t in table().values() if len(t['vi'].split()) > 6]
    assert len(sentences) > 60
    assert [text for text in sentences if not VIETNAMESE & set(text.lower())] == []


def test_the_notes_terms():
    vietnamese = ' '.join(texts['vi'] for texts in table().values()).lower()
    for term in (
        *('tầng tích chập', 'hàm kích hoạt', 'làm giàu dữ liệu', 'phép đối xứng trục', 'tham số'),
        *('phép cắt ảnh ngẫu nhiên', 'bước nhảy', 'đạo hàm', 'huấn luyện', 'nơron', 'sau khi duỗi'),
    ):
        assert term in vietnamese


def test_every_text_is_used():
    code = ''.join(
        path.read_text() for suffix in ('html', 'py') for path in sorted(FOLDER.glob(f'*.{suffix}'))
    )
    used = set(re.findall(r"\bt\('(\w+)'", code)) | set(re.findall(r"self\('(\w+)'", code))
    used |= {f'why_{why}' for why in re.findall(r"add\('(\w+)'", code)}
    used |= {f'explain_{kind.__name__}' for kind in Layer.__args__} & table().keys()
    used |= {'explain_other', *re.findall(r"else t\('(\w+)'", code)}
    used |= {f'{name}_{key}' for name in ('pooling', 'alt_pooling')
             for key in ('before', 'max', 'average')}  # fmt: skip
    used -= {'why_', 'pooling_', 'alt_pooling_'}
    assert used == set(table())


def test_filling_in():
    assert Texts('en')('tower', number=2) == 'tower 2'
    assert Texts('vi')('tower', number=2) == 'nhánh 2'
    with pytest.raises(KeyError):
        Texts('en')('tower')


@pytest.mark.parametrize(
    ('value', 'shown'),
    [
        (0.0, '0'),
        (57.754814, '57.75'),
        (-0.0021034, '−0.002103'),
        (1.65145e-07, '1.651·10⁻⁷'),
        (-2e-12, '−2·10⁻¹²'),
        (123456.0, '123,456'),
        (5e12, '5·10¹²'),
        (1.0, '1'),
    ],
)
def test_numbers(value, shown):
    assert Numbers('en').num(value) == shown


def test_numbers_by_language():
    assert Numbers('en').count(62378344) == '62,378,344'
    assert Numbers('vi').count(62378344) == '62\u202f378\u202f344'
    assert Numbers('en').percent(0.12345) == '12.35%'
    assert Numbers('en').percent(1e-9) == '1·10⁻⁹'
    assert Numbers('en').percent(0.99999983) == '100.0000%'
    assert (Numbers('en').paren(-2.5), Numbers('en').paren(2.5)) == ('(−2.5)', '2.5')
    assert (Numbers('en').signed(-2.04), Numbers('en').signed(3.0)) == ('−2.0', '+3.0')
