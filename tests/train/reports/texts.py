# SPDX-License-Identifier: Apache-2.0
"""Invented reports and sentences in several styles, to be mutated and timed."""

REPORTS = (
    """EXAM: CT ABDOMEN PELVIS WITH CONTRAST
CLINICAL HISTORY: 65 year old male with HCC in segment 7, s/p TACE.
COMPARISON: CT 3/4/2021. Prior 2 cm mass.
TECHNIQUE: 5 mm axial images were obtained.
FINDINGS:
LOWER CHEST: There is a 4 mm nodule in the right lower lobe (image 12). No pleural effusion.
HEPATOBILIARY: Cirrhotic liver. Ill-defined 3.1 x 2.8 cm arterially hyperenhancing lesion in segment 7 with washout (LR-5). No biliary ductal dilatation. Gallbladder is unremarkable.
PANCREAS: 1.1 cm cystic lesion in the uncinate process, likely side-branch IPMN. The main pancreatic duct is not dilated, measuring 2 mm.
SPLEEN: Enlarged, measuring 15 cm. No focal lesion.
ADRENALS: 1.5 cm left adrenal nodule, previously 1.4 cm, consistent with adenoma. Right adrenal gland is normal.
KIDNEYS/URETERS: Simple cyst in the interpolar region of the right kidney measuring 2.2 cm. Several subcentimeter hypodensities in both kidneys are too small to characterize. No hydronephrosis or stones.
BLADDER: Unremarkable.
REPRODUCTIVE ORGANS: Fibroid uterus, largest fibroid measuring 4.1 cm.
BOWEL: No obstruction. Colonic diverticulosis.
LYMPH NODES: 1.2 cm portacaval node.
BONES: No suspicious osseous lesion.

IMPRESSION:
1. 3.1 cm segment 7 HCC (LR-5).
2. Pancreatic cystic lesion, likely IPMN.
3. Stable left adrenal adenoma.
4. 4 mm RLL nodule.""",
    """CT OF THE CHEST, ABDOMEN AND PELVIS WITH INTRAVENOUS CONTRAST. INDICATION: 71-year-old woman with colon cancer, restaging. TECHNIQUE: Helical images were obtained through the chest, abdomen and pelvis after 100 mL of Omnipaque 350. COMPARISON: CT from 3/14/2022. FINDINGS: There is a 6 mm noncalcified nodule in the right lower lobe (series 4, image 88), previously 5 mm. No pleural effusion. The heart is normal in size. There is no mediastinal or hilar lymphadenopathy. The liver demonstrates multiple hypoattenuating lesions, the largest measuring 2.8 x 2.2 cm in segment VII, previously 2.1 x 1.9 cm. A second lesion in segment IVb measures 1.4 cm. The gallbladder is unremarkable without stones. The spleen measures 11 cm and is unremarkable. The pancreas is normal without ductal dilatation. The adrenal glands are unremarkable. There is a 1.2 cm simple cyst in the upper pole of the left kidney. Additional subcentimeter hypodensities in the right kidney are too small to characterize. There is no hydronephrosis. No retroperitoneal lymphadenopathy. There is wall thickening of the sigmoid colon with an associated 4.1 cm mass. The bladder is unremarkable. The uterus is surgically absent. No free fluid. No suspicious osseous lesions. IMPRESSION: 1. Enlarging hepatic metastases, largest 2.8 cm in segment VII. 2. Sigmoid mass measuring 4.1 cm. 3. 6 mm right lower lobe nodule, slightly increased. 4. Simple left renal cyst.""",
    """FINDINGS
Liver
There is a 15 mm hypodense lesion in the right lobe of the
liver, which has increased in size. A second lesion is seen in the
left lobe measuring 9 mm.
Spleen
Normal
Pancreas
12 mm cyst in the tail.

IMPRESSION
Two liver lesions.
Pancreatic cyst.""",
    """liver: 2 cm hemangioma seg 6
spleen: normal
rt kidney: 1.5 cm cyst
lt kidney: no mass
adrenals: neg
pelvis: 4 cm lt adnexal cyst
bones: sclerotic focus L3, stable
lungs: 4 mm RLL nodule, no effusion
impr: as above. no new mets. f/u MRI liver in 6 mo""",
)

SENTENCES = (
    "CT abdomen and pelvis shows a large heterogeneous mass arising from the upper pole of the left kidney "
    "measuring 8.2 x 7.1 x 6.9 cm, invading the renal vein and abutting the spleen. No hepatic lesions are seen. "
    "Multiple enlarged retroperitoneal lymph nodes measuring up to 2.3 cm.",
    "The liver demonstrates multiple hypodense lesions in both lobes, consistent with metastases. For reference, "
    "a segment II lesion measures 2.3 x 1.8 cm and a segment VI lesion measures 1.5 cm.",
    "Pancreatic tail mass, 4.2 cm, with liver mets up to 2 cm.",
    "Right upper lobe spiculated nodule measuring 1.8 cm is suspicious for primary lung cancer. Additional 5 mm "
    "nodule in the lingula. Left lower lobe 3 mm nodule.",
    "Interval resolution of the left lower lobe nodule. New 7 mm right middle lobe nodule.",
    "There is a stable 1.3-cm low-attenuation lesion in the left hepatic lobe which likely represents a cyst or "
    "hemangioma.",
    "Lesion in hepatic segment IVb/V, 3,4 x 2,1 cm, hypodens.",
    "Ill-defined hypoattenuation in the head of the pancreas concerning for adenocarcinoma. Upstream pancreatic "
    "ductal dilatation to 8 mm and atrophy of the body and tail.",
    "There are two hypodense lesions in the right lobe of the liver. The larger measures 2.1 cm in segment 5. The "
    "smaller measures 9 mm in segment 8.",
    "Left kidney: 3 cysts, largest 4 cm lower pole. Right kidney normal.",
    "The uterus is enlarged with multiple fibroids. The ovaries are normal. A 3.2 cm cyst in the right adnexa.",
    "Circumferential wall thickening of the sigmoid colon with a 4 cm mass. 12 mm polyp in the cecum.",
    "Lytic lesion in the L3 vertebral body measuring 1.4 cm. Sclerotic focus in the left iliac bone. No "
    "compression fracture.",
    "Thyroid nodule measuring 1.2 cm. Liver cyst.",
    "Gallbladder: 6 mm polyp. No stones.",
    "No evidence of a focal hepatic mass. The previously described 1.2 cm segment 6 lesion is unchanged.",
    "Bladder mass along the left lateral wall measures 3.1 cm.",
    "Esophagus: 5 cm mass at GE junction. Stomach: submucosal mass in the gastric fundus, 2.2 cm, likely GIST.",
    "2 cm mass in the pancreatic body or adjacent duodenum cannot be excluded.",
    "Prostate is enlarged measuring 5.2 x 4.8 x 4.6 cm with a hypoenhancing nodule in the peripheral zone.",
    "Innumerable hepatic cysts, compatible with polycystic liver disease. Index cyst in segment 3 measures 5.6 "
    "cm.",
    "Stable nodules: 4 mm RUL, 5 mm LLL.",
    "Spleen: 1. 2 cm cyst. 2. 9 mm hypodense lesion.",
    "3.0 x 2.5 cm (previously 2.4 x 2.2 cm) segment VII lesion.",
    "Hepatic lesions as follows: segment 2: 1.1 cm; segment 7: 2.3 cm.",
    "A 6 cm exophytic mass arises from the left kidney and is 2 cm from the renal vein.",
    "Post surgical changes of right hepatectomy. Unchanged hypodense lesion in segment 3 measuring 6 mm, likely a "
    "cyst.",
    "No pulmonary nodules. No pleural effusion. Heart is normal in size.",
    "1.5 cm hypodense left lobe lesion, indeterminate. Suggest MRI to exclude metastasis.",
    "The patient is status post right hepatectomy. In the remnant liver there is a new 1.7 cm hypovascular lesion "
    "adjacent to the resection margin, worrisome for recurrence.",
    "There is a well circumscribed, 3.4 x 2.9 cm, homogeneous, low attenuation mass in the left adrenal gland "
    "most in keeping with an adenoma.",
    "Within the liver, there are at least 5 lesions. The dominant lesion is in segment 8 and measures 4.4 cm in "
    "greatest dimension.",
    "Liver is normal in size, contour and attenuation without focal mass.",
    "Kidneys enhance symmetrically. No mass, stone or hydronephrosis on either side. Tiny cortical cyst lower "
    "pole right kidney.",
    "No pancreatic mass. No peripancreatic stranding. Spleen normal size. Two adjacent splenules measuring 8 mm.",
    "There is redemonstration of a 14 mm hypodense focus in the spleen, likely a hemangioma or lymphangioma, not "
    "significantly changed.",
    "Right kidney demonstrates 1.6 cm angiomyolipoma upper pole, left kidney demonstrates 2.2 cm Bosniak II cyst "
    "lower pole.",
    "Stomach, duodenum: 1.8 cm submucosal nodule in the gastric antrum. The duodenum is unremarkable.",
    "The 2.1 cm lesion seen on prior exam in segment 5 is not seen on today's exam.",
    "Mass: 4.5 cm, pancreatic head, hypodense.",
    "Interval increase in size and number of hepatic metastases. The segment 4A lesion measures 3.1 x 2.6 cm "
    "(previously 2.2 x 2.0 cm). The segment 6 lesion measures 2.5 cm, previously 1.8 cm. A new lesion in the "
    "caudate lobe measures 1.1 cm.",
    "New lesions in segments II, IVa and VIII.",
    "Pancreas: Normal. No mass. Adrenals: Thickening of the left adrenal without discrete nodule. Kidneys: "
    "Bilateral cysts, largest right 3.5 cm.",
    "Hepatic dome lesion measuring 11 mm, too small to characterize, statistically a cyst.",
    "Pulmonary nodules: RUL 5 mm (image 34), RML 3 mm (image 60), LLL 8 mm (image 92).",
    "A 9 mm left upper lobe nodule and a 5 mm right lower lobe nodule are stable. A previously seen 4 mm lingular "
    "nodule has resolved.",
    "6.2cm x 5.1cm x 4.8cm complex cystic mass right ovary. Left ovary normal. Uterus absent.",
    "Left breast mass 2.3 cm with clip. Axillary lymph nodes up to 1.8 cm.",
    "Multiple lytic bone lesions throughout the spine and pelvis consistent with myeloma, the largest in L2 "
    "measuring 2.6 cm.",
    "There is a 3 mm stone in the gallbladder. A 5 mm polyp is seen at the gallbladder fundus.",
    "Colon: 3.5 cm circumferential mass in the ascending colon near the hepatic flexure. No obstruction. Appendix "
    "normal.",
    "Esophageal mass at the level of the carina, 4 cm in length.",
    "1.5 x 1.2 cm enhancing lesion in the posterior bladder wall suspicious for urothelial carcinoma.",
    "Mild prostatomegaly. No prostate mass.",
    "The previously noted 1.8 cm hypodensity in the right hepatic lobe now measures 2.4 cm.",
    "A hypodensity in hepatic segment VI measures 8 mm, previously 8 mm. A hypodensity in segment VII measures 5 "
    "mm, previously 6 mm.",
    "Hypodense lesion (1.2 cm) in the body of the pancreas. Second lesion (0.8 cm) in the tail.",
    "3 hypodense liver lesions (segment 2, 1.1 cm; segment 5, 0.9 cm; segment 8, 2.0 cm).",
    "In the pancreatic tail, a 2.2 x 1.8 cm arterially enhancing mass is identified, compatible with "
    "neuroendocrine tumor. Liver mets are present in both lobes measuring up to 3.3 cm.",
    "No adrenal nodule is seen on the right; the left adrenal contains a 12 mm nodule.",
    "Both adrenal glands contain nodules: right 2.1 cm, left 1.4 cm.",
    "Hepatic cysts are again noted, unchanged. For example, 2.3 cm cyst in segment 4 (4/32) and 1.5 cm cyst in "
    "segment 7 (4/40).",
    "The mass extends into the renal vein. Renal mass measures 7 cm and arises from the interpolar left kidney.",
    "Lungs: Clear. Liver: Normal. GB: Normal. Pancreas: Normal. Spleen: Normal. Adrenals: Normal. Kidneys: 1 cm L "
    "renal cyst.",
    "Complex right renal cyst with thin septations, 3.8 cm (Bosniak IIF). There are also several simple cysts "
    "bilaterally.",
    "No significant interval change in the size of the left lower lobe pulmonary nodule, which measures 7 mm.",
    "There is no evidence of metastatic disease in the abdomen or pelvis.",
    "Large cyst in the upper pole of the left kidney, 7.9 cm, with a smaller 2 cm cyst inferior to it.",
    "Peritoneal carcinomatosis with omental caking. Hepatic capsular implants measuring up to 1.5 cm.",
    "Portal vein thrombus extending from a 6.7 cm infiltrative mass in the right lobe.",
    "Left renal hilar mass of 3 cm. Mass in the region of the uncinate process.",
    "Cirrhosis with a 2.0 cm LI-RADS 5 observation in segment 5 and a 1.1 cm LI-RADS 3 observation in segment 8.",
    "CT guided biopsy of the 3 cm liver lesion was performed.",
    "Subcentimeter hypoattenuating foci in the left hepatic lobe.",
    "The largest lesion, in the right posterior section, measures 5.2 x 4.1 cm; the second largest, in segment "
    "4b, measures 2.6 cm.",
    "Abdomen: The liver, gallbladder, spleen, pancreas, adrenal glands, kidneys, and bowel are unremarkable "
    "except for a 1.2 cm cyst in the left kidney.",
    "The liver is unremarkable apart from a few tiny cysts.",
    "There are innumerable subcentimeter low-density lesions scattered throughout both hepatic lobes, too small "
    "to characterize but likely representing cysts or biliary hamartomas.",
    "An exophytic lesion arising from the posterior interpolar cortex of the right kidney measures 13 x 11 mm and "
    "demonstrates attenuation of 65 HU, compatible with hemorrhagic cyst.",
    "Left lower lobe consolidation. Underlying mass cannot be excluded.",
    "Hyperenhancing 7 mm focus in segment 8 without washout (LR-3), and 12 mm arterially enhancing observation in "
    "segment 6 with washout (LR-5).",
    "The pancreas demonstrates a 3.1 cm mass within the head and uncinate process which is hypoenhancing relative "
    "to the pancreatic parenchyma and abuts the SMV over 180 degrees. There is upstream dilatation of the main "
    "pancreatic duct measuring up to 7 mm. There are two peripancreatic lymph nodes measuring 9 and 11 mm. "
    "Hypodense lesion in segment 7 measuring 1.4 cm is suspicious for metastasis.",
    "Status post splenectomy. Status post cholecystectomy. Unchanged 2.2 cm left adrenal myelolipoma.",
    "History of breast cancer. No suspicious breast mass. Sclerotic lesions in T8 and L1, new from prior, "
    "suspicious for metastases.",
    "Liver: Segment 2/3: 22 x 18 mm hypodense. Segment 8: 11 mm cyst.",
    "1.1 x 0.9 cm and 0.8 x 0.6 cm hypodense lesions in segments 6 and 7 respectively.",
    "Renal cysts bilaterally measuring up to 4.2 cm on the right and 3.1 cm on the left.",
    "2.0-cm left and 1.5-cm right adrenal nodules.",
    "Left and right adrenal nodules measuring 2.0 and 1.5 cm, respectively.",
    "There is a cyst in each kidney, 1.2 cm on the right and 2.4 cm on the left.",
    "Hepatic segment 6 2.3 cm and segment 8 1.2 cm lesions are unchanged.",
    "Metastatic melanoma: liver lesions in segment 5 (1.8 cm) and segment 7 (2.6 cm), splenic lesion (1.1 cm), "
    "and right adrenal mass (3.4 cm).",
    "No liver mass. Gallbladder surgically absent. Pancreas atrophic with a 6 mm cystic lesion in the neck. No "
    "ductal dilatation.",
    "Three nodules in the right lung: 4 mm in the upper lobe, 5 mm in the middle lobe and 7 mm in the lower lobe.",
    "Multiple pulmonary nodules are present in both lungs. A representative nodule in the left upper lobe "
    "measures 1.3 cm (series 4 image 33). Another in the right lower lobe measures 9 mm.",
    "No focal hepatic lesion is identified, however evaluation is limited. There may be a 1 cm lesion in the "
    "dome.",
    "Cyst in pancreas tail unchanged since 2018, 14 mm. No suspicious features.",
    "Mass in the ascending colon measuring approximately 5 cm, with adjacent enlarged nodes measuring 1.5 cm and "
    "hepatic metastases measuring up to 4 cm.",
    "Polycystic kidneys with innumerable cysts of varying size. Dominant cyst right upper pole 6.5 cm. Hyperdense "
    "cyst left lower pole 1.9 cm.",
    "Solid and cystic mass, left adnexa, 9.4 x 7.7 cm. Small uterine fibroid 2 cm. Trace free fluid.",
    "Prostate 5.1 x 4.2 x 3.9 cm. Bladder wall thickening, no mass.",
    "Pt w/ h/o RCC s/p L nephrectomy. New 1.4 cm lesion in the tail of the pancreas, arterially enhancing, c/w "
    "metastasis from RCC.",
    "Unremarkable liver, gallbladder, spleen and adrenal glands. 9 mm nonobstructing calculus right kidney. No "
    "renal masses.",
    "Possible 8 mm lesion in segment 3 vs. partial volume averaging.",
    "Distal esophageal wall thickening. Gastric mass along the lesser curvature of the body measuring 4.4 cm.",
    "Endometrial mass measuring 3.3 cm. Cervix normal. No adnexal mass.",
)
