-- The cohort of sudden cardiac death out of an OMOP CDM 5.4 with the OHDSI Waveform Extension: one row per ECG file.
--
-- ${schema} is the schema of the CDM and its vocabulary. Codes are looked up in the CDM's own `concept` table, and what
-- they subsume in `concept_ancestor`, so that what is found is what this hospital's vocabulary says. Change the codes in
-- `wanted` where a hospital records otherwise: copy this file and name the copy under table.query.sql.
WITH wanted (name, vocabulary_id, concept_code) AS (
    VALUES
    ('ecg', 'SNOMED', '268400002'),              -- 12 lead electrocardiogram
    ('ecg', 'LOINC', '34534-8'),                 -- 12 lead EKG panel
    ('vf', 'SNOMED', '71908006'),                -- ventricular fibrillation
    ('vf', 'ICD10', 'I49.0'),
    ('vf', 'ICD10CM', 'I49.01'),
    ('vt', 'SNOMED', '25569003'),                -- ventricular tachycardia
    ('vt', 'ICD10', 'I47.2'),
    ('vt', 'ICD10CM', 'I47.2'),
    ('mi', 'SNOMED', '57054005'),                -- acute myocardial infarction
    ('old_mi', 'SNOMED', '1755008'),             -- old myocardial infarction
    ('heart_failure', 'SNOMED', '84114007'),
    ('diabetes', 'SNOMED', '73211009'),
    ('hypertension', 'SNOMED', '38341003'),
    ('defibrillator', 'SNOMED', '72506001'),     -- implantable defibrillator, the device
    ('defibrillator', 'CPT4', '33249'),          -- insertion of an implantable defibrillator with leads
    ('defibrillator', 'CPT4', '33240'),          -- of its generator alone
    ('defibrillator', 'ICD10PCS', '0JH608Z'),
    ('defibrillator', 'OPS', '5-377.5'),
    ('lvef', 'LOINC', '10230-1'),                -- left ventricular ejection fraction
    ('lvef', 'LOINC', '18043-0'),                -- the same by ultrasound
    ('bmi', 'LOINC', '39156-5'),
    ('inpatient', 'Visit', 'IP'),
    ('inpatient', 'Visit', 'ER'),
    ('inpatient', 'Visit', 'ERIP')
),

concepts AS (
    SELECT DISTINCT w.name, COALESCE(a.descendant_concept_id, c.concept_id) AS concept_id
    FROM wanted AS w
    INNER JOIN ${schema}.concept AS c ON w.vocabulary_id = c.vocabulary_id AND w.concept_code = c.concept_code
    LEFT JOIN ${schema}.concept_ancestor AS a ON c.concept_id = a.ancestor_concept_id
),

ecg AS (
    SELECT
        r.waveform_registry_id AS ecg_id,
        o.person_id,
        r.waveform_file_start_datetime AS recorded_at,
        r.waveform_target_file_uri AS file
    FROM ${schema}.waveform_registry AS r
    INNER JOIN ${schema}.waveform_occurrence AS o ON r.waveform_occurrence_id = o.waveform_occurrence_id
    WHERE o.waveform_occurrence_concept_id IN (SELECT concept_id FROM concepts WHERE name = 'ecg')
),

happened AS (
    SELECT c.person_id, k.name, CAST(COALESCE(c.condition_start_datetime, c.condition_start_date) AS TIMESTAMP) AS at
    FROM ${schema}.condition_occurrence AS c
    INNER JOIN concepts AS k ON k.concept_id IN (c.condition_concept_id, c.condition_source_concept_id)
    UNION ALL
    SELECT p.person_id, k.name, CAST(COALESCE(p.procedure_datetime, p.procedure_date) AS TIMESTAMP)
    FROM ${schema}.procedure_occurrence AS p
    INNER JOIN concepts AS k ON k.concept_id IN (p.procedure_concept_id, p.procedure_source_concept_id)
    UNION ALL
    SELECT d.person_id, k.name,
        CAST(COALESCE(d.device_exposure_start_datetime, d.device_exposure_start_date) AS TIMESTAMP)
    FROM ${schema}.device_exposure AS d
    INNER JOIN concepts AS k ON k.concept_id IN (d.device_concept_id, d.device_source_concept_id)
),

-- Relative to each ECG: the first event after it, and what was known by then.
around AS (
    SELECT
        e.ecg_id,
        MIN(CASE WHEN h.name = 'vf' AND h.at > e.recorded_at THEN h.at END) AS vf_date,
        MIN(CASE WHEN h.name = 'vt' AND h.at > e.recorded_at THEN h.at END) AS vt_date,
        MIN(CASE WHEN h.name IN ('vf', 'vt') AND h.at > e.recorded_at THEN h.at END) AS vfvt_date,
        MIN(CASE WHEN h.name = 'mi' AND h.at > e.recorded_at THEN h.at END) AS mi_date,
        MIN(CASE WHEN h.name = 'defibrillator' THEN h.at END) AS icd_date,
        MAX(CASE WHEN h.name = 'heart_failure' AND h.at <= e.recorded_at THEN 1 ELSE 0 END) AS heart_failure,
        MAX(CASE WHEN h.name = 'diabetes' AND h.at <= e.recorded_at THEN 1 ELSE 0 END) AS diabetes,
        MAX(CASE WHEN h.name = 'hypertension' AND h.at <= e.recorded_at THEN 1 ELSE 0 END) AS hypertension,
        MAX(CASE WHEN h.name IN ('old_mi', 'mi') AND h.at <= e.recorded_at THEN 1 ELSE 0 END) AS previous_mi
    FROM ecg AS e
    LEFT JOIN happened AS h ON e.person_id = h.person_id
    GROUP BY e.ecg_id
),

-- The last value of the year before the ECG, or of the month after it where there was none.
measured AS (
    SELECT ecg_id, name, value
    FROM (
        SELECT
            e.ecg_id, k.name, m.value_as_number AS value,
            ROW_NUMBER() OVER (
                PARTITION BY e.ecg_id, k.name
                ORDER BY
                    CASE WHEN m.measurement_date <= CAST(e.recorded_at AS DATE) THEN 0 ELSE 1 END,
                    ABS(m.measurement_date - CAST(e.recorded_at AS DATE)), m.measurement_id
            ) AS place
        FROM ecg AS e
        INNER JOIN ${schema}.measurement AS m ON e.person_id = m.person_id
        INNER JOIN concepts AS k ON k.concept_id IN (m.measurement_concept_id, m.measurement_source_concept_id)
        WHERE
            k.name IN ('lvef', 'bmi') AND m.value_as_number IS NOT NULL
            AND m.measurement_date - CAST(e.recorded_at AS DATE) BETWEEN -365 AND 30
    ) AS ranked
    WHERE place = 1
),

died AS (
    SELECT
        d.person_id,
        CAST(COALESCE(d.death_datetime, d.death_date) AS TIMESTAMP) AS death_date,
        COALESCE(c.concept_code, d.cause_source_value) AS death_cause
    FROM ${schema}.death AS d
    LEFT JOIN ${schema}.concept AS c
        ON d.cause_source_concept_id = c.concept_id AND c.vocabulary_id IN ('ICD10', 'ICD10CM', 'ICD10GM')
),

last_stay AS (
    SELECT d.person_id, MAX(CAST(COALESCE(v.visit_start_datetime, v.visit_start_date) AS TIMESTAMP)) AS admission_time
    FROM died AS d
    INNER JOIN ${schema}.visit_occurrence AS v ON d.person_id = v.person_id
    WHERE
        v.visit_concept_id IN (SELECT concept_id FROM concepts WHERE name = 'inpatient')
        AND v.visit_start_date <= CAST(d.death_date AS DATE)
        AND COALESCE(v.visit_end_date, CAST(d.death_date AS DATE)) >= CAST(d.death_date AS DATE)
    GROUP BY d.person_id
),

seen AS (
    SELECT person_id, MAX(CAST(COALESCE(visit_end_date, visit_start_date) AS TIMESTAMP)) AS last_encounter
    FROM ${schema}.visit_occurrence
    GROUP BY person_id
)

SELECT
    CAST(e.ecg_id AS VARCHAR) AS ecg_id,
    CAST(e.person_id AS VARCHAR) AS patient_id,
    e.file,
    e.recorded_at,
    CASE p.gender_concept_id WHEN 8532 THEN 'F' WHEN 8507 THEN 'M' END AS sex,
    CAST(p.birth_datetime AS DATE) AS birth_date,
    CASE WHEN p.birth_datetime IS NULL THEN EXTRACT(YEAR FROM e.recorded_at) - p.year_of_birth END AS age,
    d.death_date,
    d.death_cause,
    CASE WHEN d.person_id IS NULL THEN NULL WHEN s.person_id IS NULL THEN 0 ELSE 1 END AS death_in_hospital,
    s.admission_time,
    a.vf_date,
    a.vt_date,
    a.vfvt_date,
    a.mi_date,
    a.icd_date,
    v.last_encounter,
    (SELECT MAX(source_release_date) FROM ${schema}.cdm_source) AS data_end,
    CAST(f.value AS DOUBLE PRECISION) AS lvef,
    CAST(b.value AS DOUBLE PRECISION) AS bmi,
    a.heart_failure,
    a.diabetes,
    a.hypertension,
    a.previous_mi
FROM ecg AS e
INNER JOIN ${schema}.person AS p ON e.person_id = p.person_id
LEFT JOIN around AS a ON e.ecg_id = a.ecg_id
LEFT JOIN measured AS f ON e.ecg_id = f.ecg_id AND f.name = 'lvef'
LEFT JOIN measured AS b ON e.ecg_id = b.ecg_id AND b.name = 'bmi'
LEFT JOIN died AS d ON e.person_id = d.person_id
LEFT JOIN last_stay AS s ON e.person_id = s.person_id
LEFT JOIN seen AS v ON e.person_id = v.person_id
ORDER BY e.ecg_id
