"""The words that the label of a segment may be made of: anatomy, findings, and the planning of radiotherapy.

Labels are free text, often with the name of a patient or of who drew them. A dictionary is no test: Walker, White and
Hill stand in SNOMED CT, too. So the words are listed here, without those that many people are called by (head, wall,
white), which count only in a phrase that no name makes.

Source: AAPM TG-263 for structures of radiotherapy, DICOM PS3.16 CID 7150 to 7199 for segments, both chosen from.
"""

from __future__ import annotations

import re

from medssl.dicom.fields import words_of

WORDS = """
    gtv ctv ptv itv oar prv roi external contour isocenter isocentre bolus boost target margin avoidance eval dose
    patient body organ segment structure region volume area tissue normal background cavity lumen
    left right bilateral superior inferior anterior posterior medial lateral proximal distal cranial caudal dorsal
    ventral upper lower middle inner outer superficial internal ascending descending transverse
    whole total partial primary residual and of minus non ii iii iv vi vii viii
    abdomen abdominal pelvis pelvic chest thorax thoracic neck extremity limb
    brain brainstem cerebrum cerebral cerebellum cerebellar midbrain medulla cortex cortical subcortical
    hippocampus amygdala thalamus hypothalamus putamen pallidum caudate accumbens insula callosum ventricle ventricular
    frontal parietal occipital temporal lobe hemisphere meninges pituitary nucleus
    eye eyeball orbit orbital lens retina cornea optic chiasm nerve plexus brachial lacrimal cochlea ear
    nose nasal sinus mouth oral lip tongue palate tonsil tooth teeth pharynx pharyngeal nasopharynx oropharynx
    hypopharynx larynx glottis glottic supraglottic epiglottis constrictor parotid submandibular sublingual salivary
    gland thyroid parathyroid mandible maxilla scalp
    lung pulmonary trachea bronchus bronchi bronchial airway pleura pleural mediastinum mediastinal hilum diaphragm
    thymus breast mammary
    heart cardiac myocardium pericardium atrium atria atrial septum valve coronary
    aorta aortic artery arteries arterial vein venous vessel vascular carotid jugular subclavian brachiocephalic
    iliac femoral mesenteric celiac coeliac hepatic splenic renal portal
    esophagus oesophagus stomach gastric duodenum jejunum ileum intestine bowel bag colon caecum cecum appendix sigmoid
    rectum rectal anus anal mesorectum sphincter peritoneum omentum
    liver biliary bile duct gallbladder pancreas pancreatic spleen adrenal kidney ureter bladder urethra
    prostate prostatic penis penile testis testes testicle scrotum seminal vesicle uterus uterine cervix cervical
    vagina vulva ovary ovaries parametrium
    bone skull spine spinal cord vertebra vertebrae vertebral lumbar sacrum sacral sacroiliac coccyx disc disk
    clavicle scapula sternum rib humerus humeral ulna acetabulum femur tibia fibula patella
    shoulder elbow wrist hip knee ankle thigh finger toe
    muscle psoas iliopsoas gluteus masseter ligament tendon cartilage meniscus skin fat subcutaneous
    lymph lymphatic node nodal axilla axillary inguinal supraclavicular obturator presacral
    tumor tumour lesion nodule mass cyst polyp metastasis metastases necrosis necrotic edema oedema enhancing
    nonenhancing hyperintensity hematoma haematoma hemorrhage haemorrhage infarct ischemia ischaemia
    thrombus embolus aneurysm stenosis plaque calcification abscess effusion ascites
    pneumonia consolidation opacity emphysema fibrosis atelectasis pneumothorax air gas fluid
    fiducial stent implant prosthesis pacemaker catheter electrode
"""
PHRASES = """
    white matter|gr[ae]y matter|ground glass|brain stem|bone marrow|tumou?r core|tumou?r bed|penile bulb|vena cava
    small bowel|large bowel|small intestine|large intestine|common iliac|common carotid|common bile duct|anal canal
    chest wall|abdominal wall|bladder wall|rectal wall|aortic arch|oral cavity|head and neck|head neck
    femur head|femoral head|humerus head|humeral head|pancreas head|femur neck|gluteus (?:maximus|medius|minimus)
    segment [iv]|[clts] \\d\\d?
""".replace("\n", "|")  # the last: vertebrae
TERMS = "|".join(filter(None, (phrase.strip() for phrase in (*WORDS.split(), *PHRASES.split("|")))))
ANATOMICAL = re.compile(rf"(?:(?:(?:{TERMS})s?|[lr]t?|\d\d?)(?: |$))+")
PLAIN = re.compile(r"[A-Za-z0-9 _.,()+-]{1,64}")  # of a label that its words and numbers say wholly
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def name_of(number: int, names: frozenset[str], *labels: str) -> str:
    """Return the first of ``labels`` that may enter a pool, else the number of the segment.

    One may that is made of the terms above alone, beside sides and one number of up to two digits (more could be a date
    or a record number), at least one of them a word, and none one of ``names``, the words of this object's names.
    """
    for label in labels:
        parts = PART.findall(label) if PLAIN.fullmatch(label) else []
        plain = " ".join(parts).casefold()
        is_word = any(len(part) > 2 and part.isalpha() for part in parts)
        is_known = ANATOMICAL.fullmatch(plain) is not None and sum(map(str.isdigit, parts)) < 2
        if is_word and is_known and not words_of(label, plain) & names:
            return " ".join(label.split())
    return f"segment {number}"
