-- SaMi-Trop's exams.csv, each row with its number: exams.hdf5 holds its tracings in this order, and no ids.
SELECT
    ROW_NUMBER() OVER () - 1 AS row,
    CAST(exam_id AS VARCHAR) AS exam_id,
    age,
    CAST(is_male AS VARCHAR) AS is_male,
    CAST(normal_ecg AS BOOLEAN) AS normal_ecg,
    CAST(death AS BOOLEAN) AS death,
    timey
FROM exams
